"""l2 score."""

from __future__ import annotations

from cmds.console import Console
from cmds.options import Device, Inputs, Output, Quiet
from cmds.sampling import BatchSize, Rm
from l2.files.errors import UsageError


def score(
    files: Inputs = None,
    rm: Rm = None,
    output: Output = "-",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Add reward-model scores to samples or dialogs: the same records with rewards {name: raw score}.

    The score is read at the EOS that ends the last answer; its sigmoid is the paper's 0 to 1 (§3.2.2).

    Example: l2 score samples.jsonl --rm helpful=runs/helpful-rm --rm safe=runs/safe-rm -o scored.jsonl
    """
    from cmds.sampling import open_rewards
    from l2.files.jsonl import open_writer, read_records
    from l2.generate.samples import add_rewards
    from l2.tokens.chat import as_messages, check_messages, encode_dialog
    from l2.tokens.tokenizer import load_tokenizer

    if not rm:
        raise UsageError("give a reward model: --rm NAME=DIR")
    console = Console("score", quiet)
    tokenizer = load_tokenizer(rm[0].rpartition("=")[2])
    models = open_rewards(rm, device, tokenizer)
    records = list(read_records(files or ()))
    rows = []
    for record in records:
        if "messages" in record:
            messages = record.need("messages", list)
        else:
            answer = {"role": "assistant", "content": record.need("response")}
            messages = [*as_messages(record.need("prompt", (str, list))), answer]
        rows.append(encode_dialog(tokenizer, check_messages(messages, record.where)).ids)
    with open_writer(output) as writer, console.progress("scores") as progress:
        for scored in add_rewards(models, records, rows, batch_size, progress):
            writer.write(scored)
