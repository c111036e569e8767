"""The benchmarks run, compare outputs and write what they measured; no time is asserted."""

import importlib.util
import json
import math

import pytest
import torch

from benchmarks import caption, encoder, vqa
from benchmarks.__main__ import PARTS, _measured, _measured_apart, main
from benchmarks.capfilt import _Round, _speeds, capfilt_rows, report
from benchmarks.compare import Row
from benchmarks.rerank import _close as close_scores
from benchmarks.vqa import _close as close_answers
from vlkit.errors import VlkitError
from vlkit.models.blip.vqa import Answers

KEYS = {"work", "dtype", "ours_s", "peer", "peer_s", "ratio", "outputs_equal"}
MORE = {"wanted", "ours_mib", "peer_mib", "gflops", "note", "machine"}
QUICK = ["--size", "tiny", "--batch", "2", "--repeat", "1"]


def bench(*arguments):
    return main([*arguments, *QUICK])


@pytest.mark.parametrize("part", [part for part in PARTS if part != "capfilt"])
def test_a_part(tmp_path, capsys, part):
    if part == "data" and importlib.util.find_spec("cv2") is None:
        pytest.skip("the original's augmentation needs OpenCV")
    file = tmp_path / "rows.json"
    assert bench(part, "--dtype", "fp32", "--json", str(file)) == 0
    rows = json.loads(file.read_text())
    assert rows
    for row in rows:
        assert set(row) == KEYS | MORE
        assert row["outputs_equal"] is True
        assert min(row["ours_s"], row["peer_s"]) > 0
        assert set(row["machine"]) == {"device", "threads", "torch", "matrix_gflops", "memory_gb_s"}
        assert row["machine"]["matrix_gflops"].keys() == {"fp32"}
    reported = capsys.readouterr().out
    assert reported.count("| equal |") == len(rows)
    assert reported.startswith(rows[0]["machine"]["device"])


def test_bf16_and_the_share_of_the_limit(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert bench("encoder", "--json", str(file)) == 0
    rows = json.loads(file.read_text())
    assert [row["dtype"] for row in rows] == ["fp32", "bf16"]
    assert all(row["note"].endswith("of the matrix limit") for row in rows)


def test_the_whole_table_skips_what_is_missing(monkeypatch, tmp_path, capsys):
    def rows(part, args):
        if part == "encoder":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers.models")
        if part == "data":
            raise ModuleNotFoundError("No module named 'cv2'", name="cv2")
        if part == "evaluation":
            raise VlkitError("this needs a checkout")
        yield Row(part, "fp32", 1.0, "peer", 2.0, 2.0, True, wanted=3.0)

    monkeypatch.setattr("benchmarks.__main__._rows", rows)
    monkeypatch.setattr("benchmarks.__main__._measured_apart", _measured)
    file = tmp_path / "rows.json"
    assert bench("--dtype", "fp32", "--json", str(file)) == 0
    skipped = {"encoder", "data", "evaluation"}
    assert [row["work"] for row in json.loads(file.read_text())] == [part for part in PARTS if part not in skipped]
    out, reported = capsys.readouterr()
    assert out.count("| 2.00 (< 3.00) | 3.00 |") == len(PARTS) - 3  # does not change the exit code
    lines = [line for line in reported.splitlines() if line.startswith("skipped")]
    assert lines[0].endswith("pip install transformers")
    assert lines[1] == "skipped evaluation: this needs a checkout"
    assert lines[2].endswith("pip install opencv-python-headless")
    assert main(["data", *QUICK]) == 2  # alone there is nothing to print
    assert "pip install opencv-python-headless" in capsys.readouterr().err


def test_an_import_error_of_the_package_itself_is_not_hidden(monkeypatch):
    def rows(part, args):
        raise ModuleNotFoundError("No module named 'vlkit.nothing'", name="vlkit.nothing")

    monkeypatch.setattr("benchmarks.__main__._rows", rows)
    monkeypatch.setattr("benchmarks.__main__._measured_apart", _measured)
    with pytest.raises(ModuleNotFoundError):
        bench("--dtype", "fp32")


def test_parts_are_measured_in_processes_of_their_own_and_kept_when_a_later_one_fails(tmp_path, monkeypatch, capfd):
    file = tmp_path / "rows.json"

    def apart(part, args):
        if part == "caption":
            raise RuntimeError("the machine goes down")
        return _measured_apart(part, args)

    monkeypatch.setattr("benchmarks.__main__._measured_apart", apart)
    with pytest.raises(RuntimeError, match="goes down"):
        bench("--dtype", "fp32", "--threads", "1", "--json", str(file))
    (row,) = json.loads(file.read_text())
    assert row["work"].startswith("image encoder, tiny")
    assert f"{row['work']}, fp32: " in capfd.readouterr().err


def test_outputs_that_differ_end_with_1(monkeypatch, capsys):
    monkeypatch.setattr(encoder, "_run_peer", lambda peer, image: torch.zeros(len(image), 5, 64))
    assert bench("encoder", "--dtype", "fp32") == 1
    assert "| DIFFER |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encodr"], "Did you mean 'encoder'"),
        (["caption", "--device", "tpu"], "--device: 'tpu'"),
        (["caption", "--device", "cpu:x"], "--device: 'cpu:x'"),
        (["caption", "--device", "cuda:99"], "torch finds"),
        (["caption", "--threads", "0"], "--threads: 0"),
        (["caption", "--repeat", "0"], "--repeat: 0"),
        (["caption", "--batch", "0"], "--batch: 0"),
        (["growth", "--device", "cuda"], "on the CPU"),
        (["capfilt", "--device", "cuda"], "on the CPU"),
        (["encoder", "--json", __file__ + "/rows.json"], "is a file. Choose another"),
        (["encoder", "--json", "."], "--json: . is a folder"),
        (["growth", "--out", __file__], "is a file. Choose another"),
    ],
)
def test_wrong_arguments(capsys, arguments, said):
    assert main([*arguments]) == 2
    assert said in capsys.readouterr().err


def test_threads(capsys):
    before = torch.get_num_threads()
    try:
        assert bench("encoder", "--dtype", "fp32", "--threads", "1") == 0
    finally:
        torch.set_num_threads(before)
    assert "threads: 1," in capsys.readouterr().out


def test_growth_writes_figures_and_plots(tmp_path, capsys):
    folder = tmp_path / "plots"
    assert main(["growth", "--size", "tiny", "--repeat", "1", "--out", str(folder)]) == 0
    found = json.loads((folder / "growth.json").read_text())
    assert [point["images"] for point in found["retrieval"]] == [10, 20, 40]
    assert 80 <= found["retrieval"][0]["pairs"] <= 100  # ten images with eight candidates each, both ways
    assert [point["batch"] for point in found["captioning"]] == [1, 2, 4]
    assert [point["image_tokens"] for point in found["decoding"]] == [5, 17, 37]
    assert all(min(point["attention_ms"], point["ms_per_token"]) > 0 for point in found["decoding"])
    for part in ("retrieval", "captioning", "decoding"):
        assert (folder / f"growth_{part}.png").read_bytes().startswith(b"\x89PNG")


def test_encoder_operations():
    from vlkit.models.vit import VitConfig

    # 444 GFLOP for four images of 384 pixels: 12 layers, 577 tokens, 768 wide.
    assert round(4 * encoder.encoder_flop(VitConfig(image_size=384)) / 1e9) == 444


def test_scores_are_compared_by_their_spread():
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert close_scores(scores, scores + 0.01, tolerance=0.01)
    assert not close_scores(scores, scores + 0.02, tolerance=0.01)
    assert not close_scores(scores, scores.flip(0), tolerance=0.01)


def test_tokens_are_compared_by_the_largest():
    tokens = torch.tensor([[1.0, -10.0]])
    assert encoder._close(tokens, tokens + 0.09, tolerance=0.01)
    assert not encoder._close(tokens, tokens + 0.2, tolerance=0.01)
    assert not encoder._close(tokens, tokens[:, :1], tolerance=0.01)


def test_answers_are_compared_by_candidates_and_losses():
    ours = Answers([["a", "b", "c", "d"]], [[-1.0, -2.0, -3.0, -4.0]])
    assert close_answers(ours, Answers([["b", "a", "c", "d"]], [[-2.0, -1.0, -3.0, -4.0]]), (0.01, 0.0))
    assert not close_answers(ours, Answers([["a", "b", "c", "d"]], [[-2.0, -1.0, -3.0, -4.0]]), (0.01, 0.0))
    one_other = Answers([["a", "b", "c", "e"]], [[-1.0, -2.0, -3.0, -4.0]])
    assert not close_answers(ours, one_other, (0.01, 0.0))
    assert close_answers(ours, one_other, (0.01, 0.25))


def test_answers_that_are_missing_no_number_or_out_of_order_are_reported():
    ours = Answers([["a", "b"]], [[-1.0, -2.0]])
    assert close_answers(ours, ours, (0.01, 0.0))
    assert not close_answers(Answers([["a"]], [[-1.0]]), ours, (0.01, 0.0))
    assert not close_answers(Answers([["b", "a"]], [[-2.0, -1.0]]), ours, (0.01, 0.0))
    no_number = Answers([["a", "b"]], [[-1.0, math.nan]])
    assert not close_answers(no_number, ours, (0.01, 0.0))
    assert not close_answers(ours, no_number, (0.01, 0.0))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_answers_to_another_image_or_question_would_be_reported(dtype):
    model = vqa.model_of("tiny")
    answers = vqa.answer_list(model, 60)
    samples = vqa._inputs(model, answers, 16).samples
    found, tolerance = model.rank(samples, answers, 16), vqa._TOLERANCE[dtype]
    assert close_answers(model.rank(samples, answers, 16), found, tolerance)
    for key, value in (("image", samples["image"].flip(0)), ("text_input", samples["text_input"][::-1])):
        assert not close_answers(model.rank({**samples, key: value}, answers, 16), found, tolerance)


def test_captions_depend_on_the_image_and_are_compared_to_the_end():
    model, _, _ = caption._models("tiny")
    config = caption.GenerationConfig(max_length=20, min_length=20, num_beams=3)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    ids = caption._run_ours(model, image, config)
    assert ids[0] != ids[1]
    end = model.tokenizer.sep_id
    assert caption._same(model, image, 0.0, ids, [[*each, end] for each in ids])
    assert not caption._same(model, image, 0.0, [each[:10] for each in ids], ids)
    assert not caption._same(model, image, 2e-2, ids, ids[::-1])


def test_capfilt_beside_its_models_and_in_two_processes(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert main(["capfilt", "--images", "40", "--repeat", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [row["wanted"] for row in rows] == [None, None, 0.8, 1.6]
    assert all(row["outputs_equal"] and row["images_per_s"] > 0 for row in rows)
    assert capsys.readouterr().out.count("| equal |") == 4


def test_capfilt_figures_are_medians_of_rounds(monkeypatch):
    rounds = [_Round(1.0, 4.0, 5.0, 2.5), _Round(2.0, 8.0, 8.0, 8.0), _Round(1.0, 5.0, 10.0, 5.0)]
    speeds = _speeds(100, rounds, texts_equal=True, files_equal=False)
    encoder_alone, models, engine, two = speeds
    assert (encoder_alone.images_per_s, encoder_alone.ratio) == (100, None)
    assert (models.images_per_s, models.ratio) == (20, 0.25)
    assert (engine.images_per_s, engine.ratio, engine.outputs_equal) == (12.5, 0.8, True)
    assert (two.images_per_s, two.ratio, two.outputs_equal) == (20, 2.0, False)
    assert "| engine, two processes | 20.0 | 2.00 | one process | 1.60 | DIFFER |" in report([two])
    monkeypatch.setattr("benchmarks.capfilt.capfilt_speeds", lambda *_: speeds)
    rows = list(capfilt_rows(100))
    assert [(row.ours_s, row.peer_s, row.ratio) for row in rows] == [(5, 1.25, 0.25), (8, 6.4, 0.8), (5, 10, 2)]
    assert [row.outputs_equal for row in rows] == [True, True, False]
