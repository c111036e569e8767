"""The image encoder against the original's outputs and gradients."""

from tests.parity.golden import Case, check_gradients, filled_state
from vlkit.models.vit import VisionTransformer, VitConfig, resize_pos_embed


def vit_config(info: dict) -> VitConfig:
    return VitConfig(info["img_size"], info["patch_size"], info["embed_dim"], info["depth"], info["num_heads"])


def build(case: Case) -> VisionTransformer:
    model = VisionTransformer(vit_config(case.info["config"]["vit"])).eval()
    model.load_state_dict(filled_state(case.info["model"]), strict=True)
    return model


def test_outputs_and_gradients():
    case = Case("vit")
    model = build(case)
    image = case.input("input.vit.image").requires_grad_()
    case.expect("patch_embed", model.patch_embed(image))
    output = model(image)
    case.expect("output", output)
    (output * case.input("input.vit.grad")).sum().backward()
    count = case["image_grad_first64"].numel()
    case.expect("image_grad_first64", image.grad.reshape(-1)[:count])
    check_gradients(case, dict(model.named_parameters()))


def test_attention_of_the_last_block():
    case = Case("vit")
    model = build(case)
    seen = {}
    attention = model.blocks[-1].attn
    attention.qkv.register_forward_hook(lambda module, args, output: seen.update(qkv=output))
    model(case.input("input.vit.image"))
    query, key, _ = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in seen["qkv"].chunk(3, -1))
    weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
    case.expect("attention_last", weights)


def test_position_embedding_for_other_grids():
    case = Case("pos_embed")
    for number, run in enumerate(case.info["runs"]):
        resized = resize_pos_embed(case.input(run["noise_name"]), run["to_grid"] ** 2 + 1)
        case.expect(f"output_{number}", resized)
