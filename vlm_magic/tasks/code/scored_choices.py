"""The part of a program that compares choices: each is scored as the reply by one plain forward.

The same sums as `vlm_magic.choice_scores`, without a shared prompt: a learner sees the
whole formula.
Neighbours: `program` writes the rest of the program, `parts` literals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Settings, Turn
from vlm_magic.models.decoding.scoring import replies_ids
from vlm_magic.tasks.code.parts import block, literal

if TYPE_CHECKING:
    from vlm_magic.models.loaded import Loaded

__all__ = ["choices_lines"]

_COMPARED = {
    "none": "log_probability(inputs, ids)",
    "length": "log_probability(inputs, ids) / len(ids)",
    "prior": "log_probability(asked, ids) - log_probability(blank, ids)",
}
_WHY = {
    "none": "# What is compared: how likely the model is to say just this.",
    "length": "# What is compared: the mean over a choice's tokens.",
    "prior": "# What is compared: how much likelier the pictures make a choice than grey squares do.",
}


def choices_lines(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, inputs: Mapping[str, Any]
) -> list[str]:
    """The lines after the prompt: the choices' tokens, their scores, the best one.

    Args:
        loaded: the model.
        turns: the conversation, the question last.
        settings: with the choices and how they are compared.
        inputs: the prompt's tensors, whose names and shapes say what grows with the reply.
    """
    ids = replies_ids(loaded, turns, settings.choices, settings)
    lines = ["", *_tokens(loaded, settings.choices, ids), ""]
    lines += _log_probability(loaded, inputs)
    lines += [
        "",
        "",
        _WHY[settings.normalize],
        f"scores = {{choice: {_COMPARED[settings.normalize]} for choice, ids in choices.items()}}",
        "shares = torch.softmax(torch.tensor(list(scores.values()), dtype=torch.float64), dim=0)",
        "for choice, share in zip(choices, shares.tolist()):",
        '    print(f"{share:6.1%}  {choice}")',
        "answer = max(scores, key=scores.get)",
        "new_ids = choices[answer]",
    ]
    return lines


def _tokens(loaded: Loaded, choices: Sequence[str], ids: Sequence[Sequence[int]]) -> list[str]:
    """``choices``: from each choice to its tokens, by the tokenizer where the text gives them."""
    tokenizer = loaded.tokenizer
    texts = [tokenizer.decode(each, clean_up_tokenization_spaces=False) for each in ids]
    if [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] == list(ids):
        pairs = [f"{literal(choice)}: {literal(text)}" for choice, text in zip(choices, texts, strict=True)]
        return [
            "# Each choice as the model would write it, the end of the answer included.",
            *block("replies = {", pairs, "}"),
            "choices = {",
            '    choice: processor.tokenizer(text, add_special_tokens=False)["input_ids"]',
            "    for choice, text in replies.items()",
            "}",
        ]
    pairs = [f"{literal(choice)}: {list(each)}" for choice, each in zip(choices, ids, strict=True)]
    return [
        "# Each choice as the model's tokens, the end of the answer included.",
        *block("choices = {", pairs, "}"),
    ]


def _log_probability(loaded: Loaded, inputs: Mapping[str, Any]) -> list[str]:
    """The function that scores a reply by one forward over prompt and reply."""
    lines = [
        "",
        "@torch.inference_mode()",
        "def log_probability(inputs, ids):",
        '    """log P(reply | prompt): the sum of log p(token | all tokens before it)."""',
        "    reply = torch.tensor([ids], device=model.device)",
    ]
    if loaded.is_encoder_decoder:
        start = loaded.model.config.get_text_config().decoder_start_token_id
        lines += [
            f"    start = torch.full_like(reply[:, :1], {start})",
            "    read = torch.cat([start, reply[:, :-1]], dim=1)",
            "    logits = model(**inputs, decoder_input_ids=read).logits[0].float()",
        ]
    else:
        lines += ["    whole = dict(inputs)"]
        lines += ['    whole.pop("labels", None)  # some processors add them; they are for training']
        lines += ['    whole["input_ids"] = torch.cat([inputs["input_ids"], reply], dim=1)']
        lines += [f"    whole[{literal(name)}] = {grown}" for name, grown in _grown(loaded, inputs).items()]
        lines += ["    logits = model(**whole).logits[0, -len(ids) - 1 : -1].float()"]
    return [*lines, "    return torch.log_softmax(logits, dim=-1).gather(1, reply.T).sum().item()"]


def _grown(loaded: Loaded, inputs: Mapping[str, Any]) -> dict[str, str]:
    """The prompt's other inputs that have a value for each token, continued over the reply, as code."""
    n_prompt = inputs["input_ids"].shape[1]
    found = {}
    for name, value in inputs.items():
        if name == "input_ids" or value.ndim < 2 or value.shape[1] != n_prompt or value.is_floating_point():
            continue
        own = f"inputs[{literal(name)}]"
        if name in ("image_attention_mask", "cross_attention_mask"):  # new tokens see what the last one saw
            found[name] = f"torch.cat([{own}, {own}[:, -1:].repeat_interleave(len(ids), dim=1)], dim=1)"
        elif value.ndim == 2:
            said = loaded.family.said_type  # of a token that is said, not shown
            if name.endswith("attention_mask"):
                more = "torch.ones_like(reply)"
            elif name == "token_type_ids" and said:
                more = f"torch.full_like(reply, {said})"
            else:
                more = "torch.zeros_like(reply)"
            found[name] = f"torch.cat([{own}, {more}], dim=1)"
    return found
