"""Keep people's text from becoming a model's control tokens.

A prompt that says ``<image>`` or ``<|im_end|>`` in words must reach the model as those letters. The way:
before the chat template each such word is replaced by one private-use character (`Mask.hide`); the template
and the processor then see none of it; when the processor calls its tokenizer, `GuardedTokenizer`
writes the token ids of the letters in place of the character.

"Exact" means: the ids are those that the tokenizer would give if it had no added tokens at all. Whether
that can be done is checked on every prompt, not assumed (see `_encode_exactly`); where it cannot, a
zero-width space goes between the first two letters, which looks the same but is no control token, and a
note says so.

Knows tokenizers, not models, pictures or turns. Neighbours: `prompts.prepare` uses it, `families` names
more tokens.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ControlTokens", "GuardedTokenizer", "Mask"]

ZERO_WIDTH = "\u200b"
_FIRST_MASK = 0xF0000  # plane 15, private use: no text means anything by it
_LAST_MASK = 0xFFFFD
_ANCHOR = "\U000ffffd"  # stands for "some control token came before"; never chosen as a mask
_LOOKS_LIKE_CONTROL = re.compile(r"<\|.*\|>", re.DOTALL)


class ControlTokens:
    """The words that one tokenizer reads as something other than their letters.

    These are its special tokens, the placeholders that the processor or the config names, added tokens of
    the form ``<|…|>`` or from the chat template, and what the family's pattern matches. Other added
    tokens (runs of spaces, HTML tags in Gemma's vocabulary) are ordinary words.

    Args:
        tokenizer: a transformers tokenizer.
        named: further control words (``processor.image_token`` and the like).
        template: the chat template; added tokens that occur in it are control words.
        pattern: a regular expression for further ones, or "".

    Attributes:
        ids: control word → id.
        added: every added token, control word or not → id.
    """

    def __init__(
        self, tokenizer: Any, *, named: Iterable[str] = (), template: str = "", pattern: str = ""
    ) -> None:
        extra = re.compile(pattern) if pattern else None
        wanted = {word for word in named if word}
        self.ids: dict[str, int] = {}
        self.added: dict[str, int] = {}
        self._flags: dict[str, Any] = {}
        for token_id, token in tokenizer.added_tokens_decoder.items():
            word = str(token.content)
            self.added[word] = int(token_id)
            self._flags[word] = token
            if (
                token.special
                or word in wanted
                or _LOOKS_LIKE_CONTROL.fullmatch(word)
                or (word.strip() and not word.isalnum() and word in template)
                or (extra is not None and extra.fullmatch(word))
            ):
                self.ids[word] = int(token_id)
        self._tokenizer = tokenizer
        self._bare: Any = None
        self._pattern = _alternatives(self.ids)
        self._added_pattern = _alternatives(self.added)

    def find(self, text: str) -> list[str]:
        """The control words in ``text``, in order, duplicates included."""
        return self._pattern.findall(text) if self._pattern is not None else []

    def split(self, text: str) -> list[tuple[int, int, int | None]]:
        """Cut a text at the tokenizer's added tokens.

        Returns:
            Pieces (start, end, token id), the id None for a run of ordinary text; white space that a token
            absorbs (``lstrip``, ``rstrip``) belongs to its piece.
        """
        pieces: list[tuple[int, int, int | None]] = []
        last = 0
        for match in self._added_pattern.finditer(text) if self._added_pattern is not None else ():
            start, end = match.span()
            token_id, token = self.added[match.group()], self._flags[match.group()]
            if token.lstrip:
                start = last + len(text[last:start].rstrip())
            if token.rstrip:
                end += len(text[end:]) - len(text[end:].lstrip())
            if start < last:  # the token before has absorbed it
                continue
            if last < start:
                pieces.append((last, start, None))
            pieces.append((start, end, token_id))
            last = end
        if last < len(text):
            pieces.append((last, len(text), None))
        return pieces

    def encode_run(self, text: str, *, at_start: bool) -> list[int] | None:
        """Token ids of ordinary text, as if the tokenizer had no added tokens; None where it cannot be done.

        Args:
            text: the run.
            at_start: whether it opens the prompt; elsewhere it is encoded behind a stand-in control token,
                because some tokenizers put a space before the first word of a prompt only.
        """
        bare = self._bare_backend()
        if bare is None:
            return None
        ids: list[int] = bare.encode(text if at_start else _ANCHOR + text, add_special_tokens=False).ids
        if not at_start:
            ids = ids[1:]
        return None if set(ids) & set(self.ids.values()) else ids

    def _bare_backend(self) -> Any:
        """The tokenizer without its added tokens (except the anchor); made once, on first use."""
        if self._bare is None:
            backend = getattr(self._tokenizer, "backend_tokenizer", None)
            if backend is None or getattr(self._tokenizer, "backend", "tokenizers") != "tokenizers":
                return None
            from tokenizers import AddedToken, Tokenizer

            state = json.loads(backend.to_str())
            state.update(added_tokens=[], truncation=None, padding=None)
            bare = Tokenizer.from_str(json.dumps(state))
            bare.add_special_tokens([AddedToken(_ANCHOR, special=True, normalized=False)])
            self._bare = bare
        return self._bare


def _alternatives(words: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern that finds any of ``words``, the longest first; None for no words."""
    ordered = sorted({word for word in words if word}, key=len, reverse=True)
    return re.compile("|".join(re.escape(word) for word in ordered)) if ordered else None


@dataclass
class Mask:
    """The control words of one prompt's texts, each behind one private-use character.

    Attributes:
        control: the tokenizer's control words.
        hidden: private-use character → the letters it stands for ("" for a character that only guards).
    """

    control: ControlTokens
    hidden: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def reserve(self, texts: Iterable[str]) -> None:
        """Never choose a character that occurs in ``texts``."""
        for text in texts:
            if not text.isascii():
                self._taken.update(c for c in text if ord(c) >= _FIRST_MASK)

    def hide(self, text: str) -> str:
        """The text with its control words replaced."""
        pattern = self.control._pattern
        return pattern.sub(lambda match: self.character(match.group()), text) if pattern is not None else text

    def character(self, letters: str) -> str:
        """The private-use character that stands for ``letters``."""
        for character, hidden in self.hidden.items():
            if hidden == letters:
                return character
        code = next(
            code
            for code in range(_FIRST_MASK, _LAST_MASK)
            if chr(code) not in self.hidden and chr(code) not in self._taken
        )
        self.hidden[chr(code)] = letters
        return chr(code)

    def is_in(self, text: str) -> bool:
        """Whether a hidden word is in ``text``."""
        return not text.isascii() and any(character in text for character in self.hidden)

    def reveal(self, text: str) -> str:
        """The text with its hidden words in letters again."""
        if not self.is_in(text):
            return text
        return text.translate({ord(c): letters for c, letters in self.hidden.items()})

    def reveal_apart(self, text: str) -> str:
        """The text with its own letters, a zero-width space after the first one of each control word."""
        apart = {
            ord(c): letters[:1] + ZERO_WIDTH + letters[1:] if letters else ""
            for c, letters in self.hidden.items()
        }
        return text.translate(apart)

    @property
    def words(self) -> list[str]:
        """The control words that were hidden."""
        return [letters for letters in self.hidden.values() if letters]


@dataclass
class _Encoded:
    """One prompt's ids with the place of each piece: (start in text, first token)."""

    ids: list[int]
    starts: list[int]
    tokens: list[int]

    def token_at(self, position: int) -> int:
        """The token at a position of the text, exact where a control token stands."""
        return self.tokens[max(0, bisect_right(self.starts, position) - 1)]


class GuardedTokenizer:
    """Stands in for a processor's tokenizer during one call: records its texts, spells hidden words out.

    Everything but the call itself is passed on, so a processor does not notice. Not thread-safe; a new one
    is made for each prompt.

    Attributes:
        mask: the words that are hidden.
        texts: what the processor gave to tokenize, after its own expansions (with masks still in it).
        is_exact: whether every hidden word reached the model as its own letters.
    """

    def __init__(self, tokenizer: Any, mask: Mask) -> None:
        self._tokenizer = tokenizer
        self.mask = mask
        self._encoding: Any = None
        self._encoded: list[_Encoded | None] = []
        self._n_padding: list[int] = []
        self.texts: list[str] = []
        self.is_exact = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: Any = None, **options: Any) -> Any:
        """Tokenize as the real one does, hidden words in their own letters."""
        batch = [text] if isinstance(text, str) else list(text)
        self.texts = batch
        if not any(self.mask.is_in(sample) for sample in batch):
            self._encoded = [None] * len(batch)
            self._encoding = self._tokenizer(text, **options)
            return self._encoding
        return self._encode_guarded(batch, options)

    def token_at(self, index: int, position: int) -> int | None:
        """The token at a character of the text that was given for one sample; None where there is none."""
        encoded = self._encoded[index]
        if encoded is not None:
            return encoded.token_at(position) + self._n_padding[index]
        try:
            found: int | None = self._encoding.char_to_token(index, position)
        except (ValueError, AttributeError):
            return None  # a tokenizer without offsets
        return found

    def _encode_guarded(self, batch: Sequence[str], options: dict[str, Any]) -> Any:
        """Encode each sample by itself, then pad them together."""
        add_special = options.get("add_special_tokens", True)
        self._encoded = [
            self._encode_exactly(sample, add_special) or self._encode_apart(sample, add_special)
            for sample in batch
        ]
        features = {
            "input_ids": [encoded.ids for encoded in self._encoded if encoded is not None],
            "attention_mask": [[1] * len(encoded.ids) for encoded in self._encoded if encoded is not None],
        }
        if options.get("return_token_type_ids"):
            features["token_type_ids"] = [[0] * len(ids) for ids in features["input_ids"]]
        padding = options.get("padding") or False
        if options.get("return_tensors") and len(batch) > 1 and not padding:
            padding = True
        side = options.get("padding_side") or self._tokenizer.padding_side
        longest = max(map(len, features["input_ids"]))
        self._n_padding = [
            longest - len(ids) if padding and side == "left" else 0 for ids in features["input_ids"]
        ]
        encoding = self._tokenizer.pad(
            features, padding=padding, padding_side=side, return_tensors=options.get("return_tensors")
        )
        encoding.char_to_token = self.token_at
        return encoding

    def _encode_exactly(self, text: str, add_special: bool) -> _Encoded | None:
        """Ids with each hidden word spelled out, or None where that cannot be shown to be right.

        The proof, on this very text: cut at the added tokens and encode the runs between them, the
        private-use characters still in place. If that gives what the tokenizer itself gives, then cutting
        and encoding are what it does, and a run with its letters put back may be encoded in the same way.
        """
        control = self.mask.control
        pieces = control.split(text)
        own: list[int] = self._tokenizer(text, add_special_tokens=add_special)["input_ids"]
        rebuilt: list[int] = []
        ids: list[int] = []
        starts, tokens = [], []
        for start, end, token_id in pieces:
            starts.append(start)
            tokens.append(len(ids))
            if token_id is not None:
                rebuilt.append(token_id)
                ids.append(token_id)
                continue
            run = text[start:end]
            before = control.encode_run(run, at_start=start == 0)
            after = (
                control.encode_run(self.mask.reveal(run), at_start=start == 0)
                if self.mask.is_in(run)
                else before
            )
            if before is None or after is None:
                return None
            rebuilt += before
            ids += after
        n_around = len(own) - len(rebuilt)
        for n_front in range(n_around + 1):  # what the tokenizer adds around a text, such as <s>
            if own[n_front : n_front + len(rebuilt)] == rebuilt:
                front, back = own[:n_front], own[n_front + len(rebuilt) :]
                return _Encoded([*front, *ids, *back], starts or [0], [t + n_front for t in tokens] or [0])
        return None

    def _encode_apart(self, text: str, add_special: bool) -> _Encoded:
        """Ids with a zero-width space inside each hidden word."""
        self.is_exact = self.is_exact and not any(self.mask.hidden[c] for c in self.mask.hidden if c in text)
        shown = self.mask.reveal_apart(text)
        encoding = self._tokenizer(shown, add_special_tokens=add_special)
        starts: list[int] = []
        tokens: list[int] = []
        cursor = 0
        for start, end, _ in self.mask.control.split(text):
            starts.append(start)
            found = encoding.char_to_token(cursor) if encoding.is_fast else None
            tokens.append(found if found is not None else (tokens[-1] if tokens else 0))
            cursor += len(self.mask.reveal_apart(text[start:end]))
        return _Encoded(list(encoding["input_ids"]), starts or [0], tokens or [0])
