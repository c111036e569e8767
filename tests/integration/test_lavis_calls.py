"""The calls for BLIP that LAVIS documents (its README, docstrings and notebooks), unchanged but for the import: what
comes from ``lavis.models``, ``lavis.processors``, ``lavis.datasets.builders`` or ``lavis.common.registry`` there comes
from ``vlkit`` here. Models are of the type ``tiny_shapes``, data of ``shapes``, where LAVIS's text has a released
type or COCO."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.parity.golden import ASSETS
from vlkit import (
    dataset_zoo,
    load_dataset,
    load_model,
    load_model_and_preprocess,
    load_processor,
    model_zoo,
    registry,
)

device = torch.device("cpu")


@pytest.fixture(scope="module")
def raw_image() -> Image.Image:
    return Image.open(ASSETS / "open" / "image_1_chelsea.png").convert("RGB")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_image_captioning(raw_image):
    model, vis_processors, _ = load_model_and_preprocess(
        name="blip_caption", model_type="tiny_shapes", is_eval=True, device=device
    )
    image = vis_processors["eval"](raw_image).unsqueeze(0).to(device)
    assert [type(caption) for caption in model.generate({"image": image})] == [str]
    captions = model.generate({"image": image}, use_nucleus_sampling=True, num_captions=3)
    assert len(captions) == 3
    captions = model.generate({"image": image}, num_beams=5, max_length=20, min_length=5, repetition_penalty=1.5)
    assert len(captions) == 1


def test_training_a_captioner(raw_image):
    model, vis_processors, txt_processors = load_model_and_preprocess("blip_caption", "tiny_shapes")
    image = vis_processors["train"](raw_image).unsqueeze(0)
    text_input = txt_processors["train"]("a large statue of a person spraying water from a fountain")
    output = model({"image": image, "text_input": [text_input]})
    assert output.loss.ndim == 0
    assert output.loss_lm.requires_grad


def test_visual_question_answering(raw_image):
    model, vis_processors, txt_processors = load_model_and_preprocess(
        name="blip_vqa", model_type="tiny_shapes", is_eval=True, device=device
    )
    question = "Which city is this photo taken?"
    image = vis_processors["eval"](raw_image).unsqueeze(0).to(device)
    question = txt_processors["eval"](question)
    answers = model.predict_answers(samples={"image": image, "text_input": question}, inference_method="generate")
    assert [type(answer) for answer in answers] == [str]

    samples = {"image": image, "text_input": [question]}
    assert model.predict_answers(samples) == answers
    answer_list = ["red", "green circle", "blue", "two"]
    assert model.predict_answers(samples, answer_list=answer_list)[0] in answer_list
    ranked = model.predict_answers(samples, inference_method="rank", answer_list=answer_list, num_ans_candidates=2)
    assert ranked[0] in answer_list


def test_training_question_answering(raw_image):
    model, vis_processors, _ = load_model_and_preprocess("blip_vqa", "tiny_shapes")
    image = torch.stack([vis_processors["train"](raw_image)] * 2)
    samples = {
        "image": image,
        "text_input": ["What is this?", "What is that?"],
        "answer": ["a cat", "a chair", "a dog"],
        "weight": torch.tensor([1.0, 0.3, 0.7]),
        "n_answers": torch.tensor([1, 2]),
    }
    assert model(samples).loss.requires_grad


def test_feature_extraction(raw_image):
    model, vis_processors, txt_processors = load_model_and_preprocess(
        name="blip_feature_extractor", model_type="tiny_shapes", is_eval=True, device=device
    )
    caption = "a large fountain spewing water into the air"
    image = vis_processors["eval"](raw_image).unsqueeze(0).to(device)
    text_input = txt_processors["eval"](caption)
    sample = {"image": image, "text_input": [text_input]}

    features_multimodal = model.extract_features(sample)
    features_image = model.extract_features(sample, mode="image")
    features_text = model.extract_features(sample, mode="text")
    words = len(model.tokenizer.encode(text_input)[0])
    assert features_multimodal.multimodal_embeds.shape == (1, words, 96)
    assert features_image.image_embeds.shape == (1, 37, 96)
    assert features_text.text_embeds.shape == (1, words, 96)
    assert features_image.image_embeds_proj.shape == (1, 37, 64)
    assert features_text.text_embeds_proj.shape == (1, words, 64)
    similarity = features_image.image_embeds_proj[:, 0, :] @ features_text.text_embeds_proj[:, 0, :].t()
    assert similarity.shape == (1, 1)
    assert -1 <= similarity.item() <= 1


def test_zero_shot_classification(raw_image):
    model, vis_processors, _ = load_model_and_preprocess(
        "blip_feature_extractor", model_type="tiny_shapes", is_eval=True
    )
    text_processor = load_processor("blip_caption", cfg={"prompt": "a picture of "})
    cls_names = ["merlion", "sky", "giraffe"]
    cls_prompt = [text_processor(cls_nm) for cls_nm in cls_names]
    assert cls_prompt[0] == "a picture of merlion"
    sample = {"image": vis_processors["eval"](raw_image).unsqueeze(0), "text_input": cls_prompt}
    image_features = model.extract_features(sample, mode="image").image_embeds_proj[:, 0]
    text_features = model.extract_features(sample, mode="text").text_embeds_proj[:, 0]
    sims = (image_features @ text_features.t())[0] / 0.07
    assert torch.nn.Softmax(dim=0)(sims).tolist() == pytest.approx(sims.softmax(0).tolist())


def test_image_text_matching(raw_image):
    model, vis_processors, text_processors = load_model_and_preprocess(
        "blip_image_text_matching", "tiny_shapes", device=device, is_eval=True
    )
    img = vis_processors["eval"](raw_image).unsqueeze(0).to(device)
    txt = text_processors["eval"]("merlion in Singapore")
    itm_output = model({"image": img, "text_input": txt}, match_head="itm")
    itm_scores = torch.nn.functional.softmax(itm_output, dim=1)
    assert itm_scores.shape == (1, 2)
    itc_score = model({"image": img, "text_input": txt}, match_head="itc")
    assert itc_score.shape == (1, 1)
    assert -1 <= itc_score.item() <= 1


def test_reasoning_over_two_images(raw_image):
    model, vis_processors, _ = load_model_and_preprocess("blip_nlvr", "tiny_shapes", is_eval=True)
    image = vis_processors["eval"](raw_image).unsqueeze(0)
    samples = {
        "image0": image,
        "image1": image.flip(-1),
        "text_input": ["is there a ferry in the picture?"],
        "label": torch.tensor([1]),
    }
    output = model.predict(samples)
    assert output.keys() == {"predictions", "targets"}
    assert output["predictions"].shape == (1, 2)
    assert output["targets"].tolist() == [1]
    assert model(samples).loss.requires_grad


def test_training_retrieval(raw_image):
    model, vis_processors, txt_processors = load_model_and_preprocess("blip_retrieval", "tiny_shapes")
    images = torch.stack([vis_processors["train"](raw_image)] * 3)
    text_input = [txt_processors["train"](text) for text in ("a red circle", "a blue square", "a circle")]
    samples = {"image": images, "text_input": text_input, "image_id": torch.tensor([1, 1, 2])}
    output = model(samples)
    assert torch.equal(output.loss, output.loss_itc + output.loss_itm)


class Captioned(torch.utils.data.Dataset):
    """An evaluation set as LAVIS has it: images by index, all texts beside."""

    def __init__(self):
        self.images = torch.randn(3, 3, 48, 48)
        self.text = ["a red circle", "a blue square", "two shapes", "a green star", "a circle"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "index": index}


def test_retrieval_evaluation():
    model = load_model("blip_retrieval", "tiny_shapes", is_eval=True)
    dataset = Captioned()
    data_loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    score_i2t, score_t2i = model.compute_sim_matrix(data_loader, task_cfg=SimpleNamespace(k_test=2))
    assert (score_i2t.shape, score_t2i.shape) == ((3, 5), (5, 3))
    assert ((score_i2t > -100).sum(1) == 2).all()
    assert ((score_t2i > -100).sum(1) == 2).all()
    with torch.no_grad():  # every score is the similarity plus what the matching head says
        texts = model.tokenize(dataset.text)
        embeds = model.image_embeds({"image": dataset.images})
        sims = model.image_feats(embeds) @ model.text_feats(texts).T
        states = model.text_encoder.project_images(embeds)
        for image, text in zip(*(score_i2t > -100).nonzero()):
            expected = sims[image, text] + model.match(texts.select([text]), states, [image])[0, 1]
            assert score_i2t[image, text] == pytest.approx(expected.item(), abs=1e-5)


def test_what_there_is():
    assert {"blip_caption", "blip_vqa", "blip_retrieval"} <= {name for name, _ in model_zoo}
    assert "base_coco" in str(model_zoo)
    assert len(model_zoo) > 20
    for listed, some in (
        (registry.list_models(), {"blip_caption", "blip_nlvr", "blip_pretrain", "blip_image_text_matching"}),
        (registry.list_processors(), {"blip_image_eval", "blip_image_train", "blip_caption", "blip_question"}),
        (registry.list_tasks(), {"captioning", "retrieval", "vqa"}),
        (registry.list_datasets(), {"image_text"}),
        (dataset_zoo.get_names(), {"coco_caption", "coco_retrieval", "nlvr"}),
    ):
        assert some <= set(listed)
        assert listed == sorted(listed)
    model_cls = registry.get_model_class("blip_caption")
    assert "prompt" in inspect.signature(model_cls).parameters
    assert registry.get_processor_class("blip_question")()("What is this?") == "what is this?"
    assert registry.get_task_class("captioning").__name__ == "Captioning"
    assert registry.get_builder_class("image_text").__name__ == "ImageText"


def test_datasets(tmp_path):
    dataset = load_dataset("shapes", size=4)
    assert dataset.keys() >= {"train", "val", "test"}
    assert len(dataset["train"]) == 4
    sample = dataset["train"][0]
    assert {"image", "text_input"} <= sample.keys()

    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "one.png")
    (tmp_path / "captions.json").write_text('[{"image": "one.png", "caption": "a black square"}]')
    _, vis_processors, _ = load_model_and_preprocess("blip_caption", "tiny_shapes")
    dataset = load_dataset(
        "image_text",
        vis_path=tmp_path / "pictures",
        path=str(tmp_path / "captions.json"),
        image_processor=vis_processors["eval"],
    )
    assert dataset[0]["text_input"] == "a black square"
    assert dataset[0]["image"].shape == (3, 48, 48)

    plain = load_dataset("image_text", vis_path=tmp_path / "pictures", path=str(tmp_path / "captions.json"))
    assert plain[0]["image"].size == (8, 8)  # a PIL image, as there
