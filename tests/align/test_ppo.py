"""PPO against brute force on tokens, and its own promises. Worlds with known answers: test_ppo_worlds.py."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import orjson
import pytest
import torch

import l2.align.ppo as ppo_module
from l2.align.ppo import (
    PRESETS,
    Learner,
    Settings,
    Whitening,
    check_ratio,
    estimate,
    explained_variance,
    learn,
    penalised,
    token_rewards,
)
from l2.align.ppo_run import Ppo, iteration_prompts, run_ppo
from l2.align.rollouts import (
    Prompt,
    action_logprobs,
    as_prompts,
    cut,
    distinct,
    judge,
    make_part,
    measure,
    metrics,
    reward_models,
)
from l2.align.watch import State, alarms, judge_end, refusal_rate
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record
from l2.files.manifest import open_run
from l2.generate.engine import Completion
from l2.model.checkpoint import new_model, scalar_from
from l2.model.transformer import LanguageModel, ScalarModel
from l2.train.ranks import Ranks
from tests.conftest import small_config

EOS = 2


def tiny_policy(seed: int = 0, **changes) -> LanguageModel:
    """A model spread out enough that every weight matters."""
    model = new_model(small_config(24, **changes), seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(5.0)
    return model


def tiny_value() -> ScalarModel:
    return scalar_from(new_model(small_config(24), 1), seed=3)


def tiny_ppo(score=None, **changes) -> Ppo:
    prompts = [Prompt([1, 3 + i % 20, *range(4, 4 + i % 5)], str(i)) for i in range(40)]
    settings = replace(PRESETS["tiny"], **({"max_new_tokens": 12} | changes))
    learner = Learner(tiny_policy(), tiny_value(), settings.dtype)
    return Ppo(learner, tiny_policy(), score or sevens, prompts, settings)


def sevens(_, drawn) -> tuple[torch.Tensor, None]:
    return torch.tensor([answer.count(7) / 32 for answer in drawn]), None


def rolled(ppo: Ppo, count: int = 16):
    return ppo.roll_out(ppo.prompts[:count], list(range(count)), ppo.learner.critic)


def test_a_part_is_its_answers_one_by_one():
    """Targets, log-probabilities, entropies and V of each action equal those of its row alone, without padding."""
    ppo = tiny_ppo(max_new_tokens=20)
    rollout, minis = rolled(ppo)
    assert len({len(a.tokens) for a in rollout.answers}) > 3 and {a.finish for a in rollout.answers} == {
        "stop",
        "length",
    }
    seen = []
    for part in (part for mini in minis for part in mini):
        at = 0
        for place, row in enumerate(part.rows_B.tolist()):
            prompt, answer = rollout.prompts[row].ids, rollout.answers[row].tokens
            span = slice(at, at + len(answer))
            at += len(answer)
            assert part.targets_A[span].tolist() == answer and int(part.last_B[place]) == at - 1
            tokens = torch.tensor([prompt + answer])
            with torch.no_grad():
                log_probs = ppo.learner.policy(tokens)[0, len(prompt) - 1 : -1].log_softmax(-1)
                values = ppo.learner.value(tokens)[0, len(prompt) - 1 : -1]
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            chosen = log_probs[range(len(answer)), answer]
            for found, expected in ((part.old_A, chosen), (part.entropy_A, entropy), (part.values_A, values)):
                torch.testing.assert_close(found[span], expected, atol=1e-5, rtol=0)
            seen.append(row)
        assert at == len(part.old_A) == int(part.mask_BR.sum())
    assert sorted(seen) == list(range(16))


def test_token_rewards_by_hand():
    """The KL of each token with its sign, and the score on the last action: the EOS itself, no pad after it."""
    prompts = [Prompt([1, 5], "a"), Prompt([1, 5, 6, 7], "b")]
    answers = [Completion([9, 8, EOS], [0.0] * 3, "stop"), Completion([4], [0.0], "length")]
    rollout = judge(prompts, answers, lambda *_: (torch.tensor([10.0, 20.0]), None))
    part = make_part(rollout, [1, 0], "cpu")
    part.old_A, part.reference_A = torch.tensor([-1.0, -1.0, -2.0, -3.0]), torch.tensor([-2.0, -1.5, -1.0, -3.0])
    part.values_A = torch.zeros(4)
    found = token_rewards(part, rollout.scores_N[part.rows_B], beta=0.1)
    # More likely than under the reference costs; less likely pays.
    assert found.tolist() == pytest.approx([-0.1 + 20.0, -0.05, 0.1, 10.0])
    assert part.grid(found).tolist() == [pytest.approx([19.9, 0, 0]), pytest.approx([-0.05, 0.1, 10.0])]
    # With V = 0, γ = λ = 1 the return is what is still to come.
    estimate([part], rollout.scores_N, Settings(beta=0.1, lam=1.0))
    assert part.returns_A.tolist() == pytest.approx([19.9, 10.05, 10.1, 10.0])
    assert float(part.advantages_A.mean()) == pytest.approx(0, abs=1e-6)
    assert float(part.advantages_A.std(unbiased=False)) == pytest.approx(1.0)
    assert penalised(rollout, torch.tensor([0.5, 0.5]), 1.0).tolist() == [0.5, -0.5]


def test_advantages_are_whitened_over_the_batch_and_returns_are_not():
    ppo = tiny_ppo(beta=0.3, micro_batch=5)
    rollout, minis = rolled(ppo)
    parts = [part for mini in minis for part in mini]
    estimate(parts, rollout.scores_N, ppo.settings)
    advantages = torch.cat([part.advantages_A for part in parts])
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    plain = torch.cat([part.returns_A - part.values_A for part in parts])
    torch.testing.assert_close(advantages, (plain - plain.mean()) / plain.std(unbiased=False), atol=1e-4, rtol=1e-4)
    known = 1 - float((plain**2).mean() - plain.mean() ** 2) / float(
        torch.cat([part.returns_A for part in parts]).var(unbiased=False)
    )
    assert explained_variance(parts) == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize("micro", [1, 8])
def test_micro_batches_change_memory_and_nothing_else(micro):
    """The loss of a mini-batch is a sum over its actions by their number, however it is cut."""
    after = []
    for size in (16, micro):
        ppo = tiny_ppo(micro_batch=size, batch=32, lr=1e-3, value_lr=1e-3)
        ppo.iterate(State())
        models = (ppo.learner.policy, ppo.learner.value)
        after.append(torch.cat([w.detach().flatten() for model in models for w in model.parameters()]))
    before = torch.cat([w.detach().flatten() for w in tiny_policy().parameters()])
    assert float((after[0][: len(before)] - before).abs().max()) > 5e-4
    torch.testing.assert_close(after[0], after[1], atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_the_sum_over_actions_by_their_number():
    """One mini-batch in two parts of unequal size, against the loss written out row by row."""
    ppo = tiny_ppo(mini_batch=16, micro_batch=5)
    rollout, minis = rolled(ppo)
    parts = minis[0]
    estimate(parts, rollout.scores_N, ppo.settings)
    total, count = torch.zeros(()), 0
    for part in parts:
        total = total - (action_logprobs(ppo.learner.policy, part) * part.advantages_A).sum()
        count += len(part.advantages_A)
    (total / count).backward()  # at ratio 1 the gradient of the PPO loss is that of -A log π
    expected = [w.grad.clone() for w in ppo.learner.policy.parameters()]
    ppo.learner.policy.zero_grad()
    seen: list[list[torch.Tensor]] = []
    ppo.learner.optimizers[0].step = lambda: seen.append([w.grad.clone() for w in ppo.learner.policy.parameters()])
    learn(ppo.learner, minis, replace(ppo.settings, grad_clip=1e9))
    for found, wanted in zip(seen[0], expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_one_optimizer_step_a_mini_batch_and_a_ratio_of_exactly_1(monkeypatch):
    ppo, state = tiny_ppo(micro_batch=8), State()
    steps, ratios = [0, 0], []
    for i, optimizer in enumerate(ppo.learner.optimizers):
        optimizer.register_step_post_hook(lambda *_, i=i: steps.__setitem__(i, steps[i] + 1))
    real = ppo_module.ppo_policy_loss

    def spy(logprobs, old, *rest):
        ratios.append(float((logprobs.detach() - old).exp().sub(1).abs().max()))
        return real(logprobs, old, *rest)

    monkeypatch.setattr(ppo_module, "ppo_policy_loss", spy)
    first = ppo.iterate(state)
    assert steps == [4, 4]  # 64 answers in mini-batches of 16
    assert ratios[:2] == [0.0, 0.0] and min(ratios[2:]) > 0  # two parts to a mini-batch
    assert first["kl"] == first["kl_k3"] == 0.0
    ppo.iterate(state)
    assert steps == [8, 8] and ratios[8:10] == [0.0, 0.0]


def test_a_policy_that_is_not_the_one_measured_is_an_error():
    ppo = tiny_ppo()
    rollout, minis = rolled(ppo)
    estimate([part for mini in minis for part in mini], rollout.scores_N, ppo.settings)
    with torch.no_grad():
        ppo.learner.policy.lm_head.weight[7] += 0.1
    with pytest.raises(L2Error, match="ratio"):
        learn(ppo.learner, minis, ppo.settings)


def test_a_ratio_that_is_not_1_on_another_rank_is_an_error_on_all(monkeypatch):
    same = torch.zeros(3)
    check_ratio(same, same, torch.float32)
    monkeypatch.setattr(Ranks, "most", lambda self, values: [max(*values, 0.5)])
    with pytest.raises(L2Error, match=r"0\.5 away from 1"):
        check_ratio(same, same, torch.float32, Ranks(0, 2))


def test_ranks_learn_each_answer_once_and_like_lengths_each():
    """Whatever their number, and mini-batch by mini-batch."""
    ppo = tiny_ppo(max_new_tokens=20)
    rollout, minis = rolled(ppo, 24)
    lengths = [len(p.ids) + len(a.tokens) for p, a in zip(rollout.prompts, rollout.answers, strict=True)]
    assert len(minis) == 2
    for world in (2, 3, 5):
        hands = [cut(rollout, 16, 3, "cpu", rank, world) for rank in range(world)]
        for number, mini in enumerate(minis):
            rows = [[row for part in hand[number] for row in part.rows_B.tolist()] for hand in hands]
            dealt = sorted(row for own in rows for row in own)
            assert dealt == sorted(row for part in mini for row in part.rows_B.tolist())
            assert max(map(len, rows)) - min(map(len, rows)) <= 1
            for at in range(min(map(len, rows)) - 1):
                assert max(lengths[own[at]] for own in rows) <= min(lengths[own[at + 1]] for own in rows)


def test_a_loss_that_is_no_number_is_an_error():
    ppo = tiny_ppo(score=lambda _, drawn: (torch.full((len(drawn),), math.nan), None))
    with pytest.raises(L2Error, match="the norm of the gradients is nan"):
        ppo.iterate(State())


def test_bfloat16_products_leave_the_ratio_at_1():
    ppo, state = tiny_ppo(dtype=torch.bfloat16), State()
    lines = [ppo.iterate(state) for _ in range(2)]
    assert lines[0]["kl"] == 0.0 and 0 < lines[0]["sampler_gap"] < 0.1


def test_long_batches_are_chunked_with_the_same_gradient(monkeypatch):
    ppo = tiny_ppo()
    _, minis = rolled(ppo)
    part, gradients = minis[0][0], []
    for chunk in (10_000, 7):
        monkeypatch.setattr("l2.train.pretrain.CHUNK", chunk)
        logprobs = action_logprobs(ppo.learner.policy, part)
        torch.testing.assert_close(logprobs.detach(), part.old_A, atol=1e-6, rtol=0)
        logprobs.sum().backward()
        gradients.append([w.grad.clone() for w in ppo.learner.policy.parameters()])
        ppo.learner.policy.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_reward_models_score_the_last_token_of_each_answer():
    helpful, safe = (scalar_from(new_model(small_config(24), seed), seed=seed) for seed in (1, 2))
    prompts, answers = [[1, 5], [1, 6, 7]], [[8, 9, 10, EOS], [4]]
    found = reward_models(helpful, safe)(prompts, answers)
    for model, scores in zip((helpful, safe), found, strict=True):
        with torch.no_grad():
            expected = [float(model(torch.tensor([p + a]))[0, -1]) for p, a in zip(prompts, answers, strict=True)]
        assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert reward_models(helpful, None)(prompts, answers)[1] is None


def test_metrics_are_means_over_answers_and_actions():
    prompts = [Prompt([1], "a", True), Prompt([1], "b")]
    answers = [Completion([5, 5, 5, EOS], [-1.0] * 4, "stop"), Completion([6, 7], [-2.0] * 2, "length")]
    rollout = judge(prompts, answers, lambda *_: (torch.tensor([1.0, 2.0]), torch.tensor([4.0, 3.0])))
    assert rollout.scores_N.tolist() == [4.0, 2.0]  # tagged: its safety; not tagged and safe: its helpfulness
    (part,) = cut(rollout, 2, 2, "cpu")[0]
    assert part.rows_B.tolist() == [1, 0]  # the shorter first
    part.old_A, part.reference_A = torch.full((6,), -1.5), torch.tensor([-1.5, -1.5, -1.5, -1.5, -2.5, -1.0])
    part.entropy_A = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = metrics(rollout, [part])
    k3 = (math.exp(-1) - 1 + 1) + (math.exp(0.5) - 1 - 0.5)
    expected = {"reward": 3, "helpful": 1.5, "safe": 3.5, "gated": 0.5, "kl": (1 - 0.5) / 2, "kl_k3": k3 / 2}
    expected |= {
        "helpful_std": 0.5,
        "safe_std": 0.5,
        "entropy": 3.5,
        "length": 3,
        "eos_rate": 0.5,
        "distinct_2": 3 / 4,
        "sampler_gap": 0.5,
    }
    assert found == pytest.approx(expected)
    assert distinct([Completion([3], [0.0])]) == 0.0


# The run ---


def test_every_prompt_once_an_epoch_and_another_draw_each_visit():
    prompts = [Prompt([1], f"id{i}") for i in range(10)]
    visits = [pair for step in range(5) for pair in zip(*iteration_prompts(step, prompts, 4, seed=7), strict=True)]
    for epoch in (visits[:10], visits[10:]):
        assert {prompt.identity for prompt, _ in epoch} == {prompt.identity for prompt in prompts}
    assert len({key for _, key in visits}) == 20
    assert [p.identity for p, _ in visits[:10]] != [p.identity for p, _ in visits[10:]]
    # A function of (seed, step): no iterator to restore, and the batch changes no draw.
    assert iteration_prompts(2, prompts, 4, 7)[1] == [key for _, key in visits[8:12]]
    assert iteration_prompts(0, prompts, 20, 7)[1] == [key for _, key in visits]
    # Also where it stands in the data twice.
    assert len(set(iteration_prompts(0, prompts * 2, 20, 7)[1])) == 20


def test_whitening_remembers_what_its_mode_says():
    batches = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * n + n for n in (7, 3, 12)]
    everything: list[torch.Tensor] = []
    modes = {mode: Whitening(mode) for mode in ("batch", "running", "frozen", "off")}
    for batch in batches:
        everything.append(batch)
        known = {"batch": batch, "running": torch.cat(everything), "frozen": batches[0]}
        for mode, values in known.items():
            expected = (batch - values.mean()) / values.std(unbiased=False)
            torch.testing.assert_close(modes[mode](batch), expected, atol=1e-5, rtol=1e-5)
            # A resume reads it back from JSON.
            modes[mode] = State.from_json(orjson.loads(orjson.dumps(asdict(State(whitening=modes[mode]))))).whitening
        assert modes["off"](batch) is batch
    assert Whitening("batch")(torch.tensor([3.0])).tolist() == [0.0]
    assert Whitening("batch")(torch.full((5,), 3.3)).abs().max() < 1e-6


def test_alarms_speak_of_what_they_watch():
    calm = {"score_std": 1.0, "kl": 1.0, "length": 10.0, "eos_rate": 0.9, "distinct_2": 0.8, "refusal_rate": 0.1}
    calm |= {"helpful": 0.0, "helpful_std": 1.0, "safe": 2.0, "safe_std": 0.5}
    state = State()
    state.remember(calm)
    state.remember(calm | {"length": 99.0})  # once
    calm |= {"score_std": 0.5, "length": 12.0}
    settings = Settings()
    assert alarms(calm, state, settings) == {}
    for name, change in {
        "whitening": {"score_std": 0.05},
        "kl": {"kl": 7.0},
        "truncation": {"eos_rate": 0.4},
        "length": {"length": 21.0},
        "repetition": {"distinct_2": 0.39},
        "refusal": {"refusal_rate": 0.31},
        "disagreement": {"helpful": 1.1, "safe": 1.4},
    }.items():
        (found,) = alarms(calm | change, state, settings).items()
        # The evidence stands in the sentence.
        assert found[0] == name and all(
            f"{value:.3g}" in found[1] or f"{value:.0%}" in found[1] or name == "truncation"
            for value in change.values()
        )
    assert "disagreement" not in alarms(calm | {"helpful": 1.1}, state, settings)
    assert set(alarms(calm | {"length": 4.0}, state, settings)) == {"length"}


def test_early_stopping():
    settings, state = Settings(stop_patience=2, max_kl=5.0), State()
    for reward, misses in ((1.0, 0), (1.5, 0), (1.2, 1), (1.6, 0), (1.6, 1)):
        judge_end({"kl": 1.0, "val_reward": reward}, state, settings)
        assert state.misses == misses and not state.stopped
    judge_end({"kl": 1.0}, state, settings)  # an iteration without evaluation says nothing
    assert not state.stopped
    judge_end({"kl": 1.0, "val_reward": 0.1}, state, settings)
    assert "2 evaluations" in state.stopped
    state = State()
    judge_end({"kl": 5.1}, state, settings)
    assert "5.1 nats" in state.stopped
    # run_ppo takes the best policy back for this reason too, and says so.
    state = State(best=1.5, best_step=4)
    judge_end({"kl": 5.1, "val_reward": 1.0}, state, settings)
    assert "5.1 nats" in state.stopped and "best 1.5, of iteration 4, whose policy is kept" in state.stopped


def test_a_run_stops_early_and_stays_stopped(tmp_path, tokenizer):
    """The reason is in the log; run again, the same models come out, and no further iteration."""
    heard: list[str] = []
    for _ in range(2):
        ppo = tiny_ppo(lr=3e-3, value_lr=3e-3, max_kl=1e-9, eval_every=1, iterations=9)
        ppo.held_out = ppo.prompts[:5]
        with open_run(tmp_path / "run", {}, {}) as run:
            last = run_ppo(ppo, run, tokenizer, on_alarm=heard.append)
        lines = [orjson.loads(row) for row in (tmp_path / "run/log.jsonl").read_bytes().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2] and last == lines[-1]
        assert "--max-kl" in last["stopped"] and "val_reward" in lines[0] and lines[0]["val_kl"] == 0.0
    assert len([sentence for sentence in heard if "cut off" in sentence]) == 1


def test_the_policy_of_the_best_evaluation_is_kept(tmp_path, tokenizer):
    """Held-out reward falls from the first step on: what comes out after two misses is the model of the start."""
    judged: list[int] = []

    def worse_and_worse(_, drawn):
        judged.append(len(drawn))
        return torch.full((len(drawn),), -float(len(judged))) + torch.tensor([a.count(7) for a in drawn]) * 1e-3, None

    ppo = tiny_ppo(worse_and_worse, stop_patience=2, eval_every=1, iterations=9)
    ppo.held_out = ppo.prompts[:5]
    with open_run(tmp_path / "run", {}, {}) as run:
        last = run_ppo(ppo, run, tokenizer)
    assert last["step"] == 2 and "of iteration 0, whose policy is kept" in last["stopped"]
    start = tiny_policy().state_dict()
    assert all(torch.equal(weight, start[name]) for name, weight in ppo.learner.policy.state_dict().items())


def test_offloading_moves_models_and_no_number(monkeypatch):
    """Each phase has what it needs on the device, and no more; what comes out is the same to the last bit."""
    plain, judge = tiny_ppo(), scalar_from(new_model(small_config(24), 4), seed=4)
    settings = plain.settings
    moves: list[tuple[str, list[int]]] = []

    def moved(self, to, *models):
        moves.append((str(to), [id(model) for model in models]))

    monkeypatch.setattr(Ppo, "_move", moved)
    learner = Learner(tiny_policy(), tiny_value())
    ppo = Ppo(learner, tiny_policy(), sevens, plain.prompts, settings, judges=[judge], offload=True)
    ppo.device = torch.device("cpu", 0)
    one, other = (which.iterate(State()) for which in (plain, ppo))
    timings = ("seconds", "tokens_per_s", "answers_per_s")
    assert all(other[name] == value for name, value in one.items() if name not in timings)
    actor, critic = id(learner.actor), id(learner.critic)
    needed = [[actor], [id(judge)], [actor, id(ppo.reference), critic], [id(learner)]]
    assert moves[0][0] == "cpu" and moves[1:] == [(to, one) for one in needed for to in ("cpu:0", "cpu")]


def test_declining_is_recognised():
    said = ["I can’t help with that.", "I'm sorry, but no.", "As an AI I have no opinion.", "I would rather not say."]
    assert refusal_rate([*said, "It is a volcano.", "I can help.", "Sorry is a word.", "Cats."]) == 0.5
    assert refusal_rate([]) is None


def test_settings_and_prompts_that_can_not_be():
    with pytest.raises(UsageError, match="multiple"):
        Settings(batch=60, mini_batch=16)
    with pytest.raises(UsageError, match="batch, running, frozen, off"):
        Settings(whitening="all")
    with pytest.raises(BadInput, match=r"prompt of 9 tokens.*at most 8"):
        as_prompts([Record({}, "p.jsonl:3")], [[1] * 9], longest=8)
    with pytest.raises(BadInput, match="'safety' of type str"):
        as_prompts([Record({"safety": "yes"}, "p.jsonl:3")], [[1]], longest=8)
    records = [Record({"id": 5, "safety": True}), Record({}, "p.jsonl:4")]
    assert as_prompts(records, [[1], [2]], 8) == [Prompt([1], "5", True), Prompt([2], "p.jsonl:4", False)]


def test_the_papers_numbers():
    """Paper §3.2.3."""
    paper = PRESETS["paper"]
    assert (paper.batch, paper.mini_batch, paper.lr, paper.clip, paper.beta) == (512, 64, 1e-6, 0.2, 0.01)
    assert 200 <= paper.iterations <= 400 and paper.whitening == "batch" and paper.grad_clip == 1.0
    assert paper.no_eos_penalty == 0.0
    group, bias = Learner(tiny_policy(), tiny_value()).optimizers[0].param_groups
    assert group["betas"] == (0.9, 0.95) and group["eps"] == 1e-5 and group["weight_decay"] == 0.1
    assert bias["weight_decay"] == 0.0 and all(weight.dim() == 1 for weight in bias["params"])


def test_padding_changes_no_logprob():
    """The same answers beside a much longer one."""
    ppo = tiny_ppo()
    rollout, _ = rolled(ppo, 6)
    long = Completion([9] * 40, [0.0] * 40, "length")
    wider = judge([*rollout.prompts, ppo.prompts[0]], [*rollout.answers, long], sevens)
    narrow, wide = make_part(rollout, range(6), "cpu"), make_part(wider, range(7), "cpu")
    for part in (narrow, wide):
        measure(part, ppo.learner.actor, ppo.reference, ppo.learner.critic)
    for name in ("old_A", "reference_A", "values_A", "entropy_A"):
        torch.testing.assert_close(getattr(wide, name)[: len(narrow.old_A)], getattr(narrow, name), atol=1e-5, rtol=0)
