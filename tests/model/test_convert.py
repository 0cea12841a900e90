"""Conversions against Meta's own way of computing, and there and back to the bit."""

from __future__ import annotations

import json
import struct
from itertools import product

import pytest
import torch
from torch import Tensor

from cmds.app import main
from l2.files.errors import BadInput, L2Error, UsageError
from l2.model.checkpoint import load_language_model, new_model, save_model
from l2.model.config import RopeScaling
from l2.model.convert import (
    halves,
    meta_logits,
    neighbours,
    open_llama2c,
    open_meta,
    prove,
    read_llama2c,
    read_meta,
    write_llama2c,
    write_meta,
)
from l2.model.transformer import LanguageModel
from tests.conftest import small_config
from tests.model.test_transformer import spread, tokens


def meta_forward(weights: dict[str, Tensor], params: dict, tokens_BT: Tensor) -> Tensor:
    """Logits as Meta's reference code computes them: neighbouring channels turned as complex numbers."""
    B, T = tokens_BT.shape
    heads, kv_heads, dim = params["n_heads"], params["n_kv_heads"], params["dim"]
    C = dim // heads
    angles = torch.outer(torch.arange(T).float(), params["rope_theta"] ** -(torch.arange(0, C, 2).float() / C))
    turns = torch.polar(torch.ones_like(angles), angles)[None, :, None]

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weights[f"{name}.weight"]

    def turned(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(-2)

    x = weights["tok_embeddings.weight"][tokens_BT]
    for layer in range(params["n_layers"]):
        at = f"layers.{layer}"
        h = norm(x, f"{at}.attention_norm")
        q, k, v = ((h @ weights[f"{at}.attention.{name}.weight"].T).view(B, T, -1, C) for name in ("wq", "wk", "wv"))
        q, k = turned(q), turned(k)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=2) for t in (k, v))
        scores = torch.einsum("bthc,bshc->bhts", q, k) / C**0.5
        scores = scores + torch.full((T, T), float("-inf")).triu(1)
        out = torch.einsum("bhts,bshc->bthc", scores.softmax(-1), v).reshape(B, T, dim)
        x = x + out @ weights[f"{at}.attention.wo.weight"].T
        h = norm(x, f"{at}.ffn_norm")
        w1, w2, w3 = (weights[f"{at}.feed_forward.{name}.weight"].T for name in ("w1", "w2", "w3"))
        x = x + (torch.nn.functional.silu(h @ w1) * (h @ w3)) @ w2
    return norm(x, "norm") @ weights["output.weight"].T


def model_of(**changes: object) -> LanguageModel:
    model = new_model(small_config(**changes))
    spread(model)
    return model


def same(one: LanguageModel, other: LanguageModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )


@pytest.mark.parametrize(("kv_heads", "tie"), list(product([4, 2, 1], [False, True])))
def test_meta_computes_the_same_from_what_we_write(kv_heads, tie, tokenizer, tmp_path):
    model = model_of(n_kv_heads=kv_heads, tie_embeddings=tie, rope_theta=5000.0)
    write_meta(model, tmp_path, tokenizer)
    params = json.loads((tmp_path / "params.json").read_text())
    weights = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)
    x = tokens(2, 30)
    with torch.no_grad():
        truth = meta_forward(weights, params, x)
        torch.testing.assert_close(model(x), truth, atol=1e-4, rtol=0)
        torch.testing.assert_close(meta_logits(open_meta(tmp_path), x), truth, atol=1e-4, rtol=0)
    # Meta's code computes the feed-forward width from these three (paper.md §1.4)
    width = int(params["ffn_dim_multiplier"] * int(2 * 4 * params["dim"] / 3))
    assert params["multiple_of"] * -(-width // params["multiple_of"]) == model.config.ffn_dim


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tie", [False, True])
def test_there_and_back_to_the_bit(parts, dtype, tie, tokenizer, tmp_path):
    model = model_of(max_seq_len=64, tie_embeddings=tie).to(dtype)
    write_meta(model, tmp_path, tokenizer, parts=parts)
    assert len(list(tmp_path.glob("consolidated.*.pth"))) == parts
    again = read_meta(tmp_path, max_seq_len=64)
    assert same(model, again) and again.config == model.config


def test_an_embedding_split_by_words(tokenizer, tmp_path):
    """Llama 3's groups split the embedding by words, not by channels."""
    model = model_of(max_seq_len=64)
    write_meta(model, tmp_path, tokenizer, parts=2)
    whole = model.model.embed_tokens.weight.detach()
    for number, words in enumerate(whole.chunk(2)):
        path = tmp_path / f"consolidated.{number:02d}.pth"
        torch.save(torch.load(path, weights_only=True) | {"tok_embeddings.weight": words.clone()}, path)
    again = read_meta(tmp_path, max_seq_len=64)
    assert same(model, again)


def test_orders_of_channels_are_each_others_inverse():
    weight = torch.arange(4 * 6 * 5).view(24, 5)
    assert torch.equal(halves(neighbours(weight, 4), 4), weight)
    assert neighbours(weight, 4)[:6, 0].tolist() == [0, 15, 5, 20, 10, 25]


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tie", [False, True])
def test_llama2c_there_and_back(version, tie, tmp_path):
    model = model_of(tie_embeddings=tie, max_seq_len=64)
    write_llama2c(model, tmp_path / "m.bin", version=version)
    again = read_llama2c(tmp_path / "m.bin")
    assert same(model, again) and again.config == model.config
    assert prove(model, open_llama2c(tmp_path / "m.bin")).max_logit_difference < 1e-5


def test_llama2c_bytes(tmp_path):
    """The places that its C code reads: header, norms, embedding, and the query product in Meta's order."""
    model = model_of(max_seq_len=64)
    c = model.config
    write_llama2c(model, tmp_path / "m.bin", version=1)
    raw = (tmp_path / "m.bin").read_bytes()
    assert raw[:4] == b"24ka" and struct.unpack_from("<i7iB", raw, 4) == (
        1, c.dim, c.ffn_dim, c.n_layers, c.n_heads, c.n_kv_heads, c.vocab_size, 64, 0,
    )  # fmt: skip
    floats = torch.frombuffer(bytearray(raw[256:]), dtype=torch.float32)
    norms = 2 * c.n_layers * c.dim
    state = model.state_dict()
    assert torch.equal(floats[norms : norms + c.dim], state["model.norm.weight"])
    query = norms + c.dim + c.vocab_size * c.dim
    first = floats[query : query + c.dim * c.dim].view(c.dim, c.dim)
    assert torch.equal(first[1], state["model.layers.0.self_attn.q_proj.weight"][c.head_dim // 2])


def test_a_proof_sees_a_difference():
    one, other = model_of(), model_of()
    assert prove(one, other) == (0.0, 0.0, 1.0, 64)
    with torch.no_grad():
        other.model.layers[1].self_attn.q_proj.weight[0, 0] += 0.5
    proof = prove(one, other)
    assert proof.max_logit_difference > 1e-3 and proof.kl > 0


def test_a_proof_leaves_the_models_as_they_are(tokenizer, tmp_path):
    model = model_of(tie_embeddings=True).bfloat16()
    write_meta(model, tmp_path, tokenizer)
    assert prove(model, open_meta(tmp_path)).max_logit_difference < 1e-5
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_wrong_order_of_channels_is_not_proved(kv_heads, tokenizer, tmp_path, capfd, monkeypatch):
    """A reader that undoes the writer's mistake must not hide it, whichever way the conversion goes."""
    from l2.model import convert

    source, meta = str(tmp_path / "hf"), str(tmp_path / "meta")
    save_model(model_of(vocab_size=tokenizer.vocab_size, n_kv_heads=kv_heads), source, tokenizer)
    assert main(["convert", source, meta, "--to", "meta"]) == 0
    for name in ("halves", "neighbours"):
        monkeypatch.setattr(convert, name, lambda weight, heads: weight)
    for start, to in ((source, "meta"), (source, "llama2.c"), (source, "llama2.c-v0"), (meta, "hf")):
        assert main(["convert", start, str(tmp_path / "wrong"), "--to", to]) == 1
        assert "what was written differs" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "meta"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"head_dim": 16}, "head_dim"), ({"rope_scaling": RopeScaling("linear", 2.0)}, "rope_scaling")],
)
def test_what_a_layout_cannot_hold_is_refused_by_name(changes, field, tokenizer, tmp_path):
    with pytest.raises(UsageError, match=f"the model has {field}"):
        write_meta(new_model(small_config(**changes)), tmp_path, tokenizer)
    with pytest.raises(UsageError, match="norm_eps"):
        write_llama2c(new_model(small_config(norm_eps=1e-6)), tmp_path / "m.bin")
    with pytest.raises(UsageError, match="--parts 3"):
        write_meta(new_model(small_config()), tmp_path, tokenizer, parts=3)
    for write in (lambda model: write_meta(model, tmp_path, tokenizer), lambda m: write_llama2c(m, tmp_path / "m.bin")):
        with pytest.raises(UsageError, match="the model has no layers"):
            write(new_model(small_config(n_layers=0)))


def test_broken_files_of_meta(tokenizer, tmp_path):
    with pytest.raises(L2Error, match="no consolidated"):
        read_meta(tmp_path)
    write_meta(model_of(), tmp_path, tokenizer)
    path = tmp_path / "consolidated.00.pth"
    whole = torch.load(path, weights_only=True)
    del whole["layers.1.ffn_norm.weight"]
    torch.save(whole, path)
    with pytest.raises(BadInput, match=r"no weight 'layers\.1\.ffn_norm\.weight'"):
        read_meta(tmp_path)

    class Evil:
        def __reduce__(self):
            return print, ("code from a file",)

    torch.save({"tok_embeddings.weight": Evil()}, path)
    with pytest.raises(BadInput, match="no file of weights alone"):
        read_meta(tmp_path)
    (tmp_path / "params.json").write_text('{"n_layers": 2}')
    torch.save(whole, path)
    with pytest.raises(BadInput, match="no field 'dim'"):
        read_meta(tmp_path)
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    for wrong, told in (
        ({"dim": 32.5}, "dim = 32.5"),
        ({"n_heads": 0}, "n_heads = 0"),
        ({"n_heads": 32}, "head_dim 1"),
    ):
        (tmp_path / "params.json").write_text(json.dumps(params | wrong))
        with pytest.raises(BadInput, match=told):
            read_meta(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps(params))
    for weight, other, told in (
        ("tok_embeddings", 3, "found something else than weights by name"),
        ("tok_embeddings", torch.zeros(5), "no matrix 'tok_embeddings.weight'"),
        ("layers.0.feed_forward.w1", torch.tensor(1.0), "no matrix 'layers.0.feed_forward.w1.weight'"),
        ("layers.0.attention.wo", torch.zeros(4), r"parts of layers.0.attention.wo.weight that don't fit together"),
    ):
        torch.save(whole | {f"{weight}.weight": other}, path)
        with pytest.raises(BadInput, match=told):
            read_meta(tmp_path)
    path.write_bytes(b"not a zip")
    with pytest.raises(BadInput, match="no file of weights alone"):
        read_meta(tmp_path)


def test_the_command_there_and_back(model_dir, tmp_path, capfd):
    meta, back = tmp_path / "meta", tmp_path / "back"
    assert main(["convert", str(model_dir), str(meta), "--to", "meta", "--parts", "2"]) == 0
    proof = json.loads(capfd.readouterr().out)
    assert proof["max_logit_difference"] == 0.0 and proof["greedy_agreement"] == 1.0
    context = str(load_language_model(model_dir).config.max_seq_len)
    assert main(["convert", str(meta), str(back), "--to", "hf", "--context", context]) == 0
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        assert (back / name).read_bytes() == (model_dir / name).read_bytes()
    assert main(["convert", str(model_dir), str(tmp_path / "m.bin"), "--to", "llama2.c"]) == 0
    assert (tmp_path / "tokenizer.bin").exists()
    assert main(["convert", str(model_dir), str(meta), "--to", "meta"]) == 2
    assert "exists" in capfd.readouterr().err
    for option, told in ((["--parts", "2"], "is for --to meta"), (["--context", "9"], "is for Meta's files")):
        assert main(["convert", str(model_dir), str(tmp_path / "x"), "--to", "hf", *option]) == 2
        assert told in capfd.readouterr().err


def test_what_does_not_prove_itself_is_not_left_behind(model_dir, tmp_path, capfd, monkeypatch):
    from l2.model import convert

    monkeypatch.setattr(convert, "prove", lambda one, other: convert.Proof(0.5, 0.1, 0.9, 64))
    for to in ("meta", "llama2.c"):
        assert main(["convert", str(model_dir), str(tmp_path / to), "--to", to]) == 1
        out, err = capfd.readouterr()
        assert "what was written differs" in err and json.loads(out)["max_logit_difference"] == 0.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [0.5, KeyboardInterrupt()])
def test_files_of_llama2c_stay_until_others_are_proved(failure, model_dir, tmp_path, capfd, monkeypatch):
    from l2.model import convert

    def failing(one, other):
        if isinstance(failure, BaseException):
            raise failure
        return convert.Proof(failure, 0.1, 0.9, 64)

    model, pieces = tmp_path / "m.bin", tmp_path / "tokenizer.bin"
    command = ["convert", str(model_dir), str(model), "--to", "llama2.c"]
    for there in (pieces, model):
        there.write_bytes(b"mine")
        assert main(command) == 2
        assert f"{there} exists" in capfd.readouterr().err and there.read_bytes() == b"mine"
        there.unlink()
    for there in (pieces, model):
        there.write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr(convert, "prove", failing)
        assert main([*command, "--overwrite"]) != 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {model: b"mine", pieces: b"mine"}
    assert main([*command, "--overwrite"]) == 0
    assert read_llama2c(model).config.dim == 32 and len(pieces.read_bytes()) > 4
    assert main(["convert", str(model_dir), str(pieces), "--to", "llama2.c", "--overwrite"]) == 2


def test_the_c_programs_tokenizer(model_dir, tokenizer, tmp_path):
    from l2.model.convert import write_llama2c_tokenizer

    write_llama2c_tokenizer(tokenizer, tmp_path / "tokenizer.bin")
    raw, at, pieces = (tmp_path / "tokenizer.bin").read_bytes(), 4, []
    while at < len(raw):
        score, length = struct.unpack_from("<fi", raw, at)
        pieces.append((raw[at + 8 : at + 8 + length], score))
        at += 8 + length
    assert len(pieces) == tokenizer.vocab_size and pieces[1][0] == b"\n<s>\n" and pieces[13][0] == b"<0x0A>"
    assert max(len(piece) for piece, _ in pieces) == struct.unpack_from("<i", raw)[0]
