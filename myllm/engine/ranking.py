"""What a model that ranks reads: the query beside each document, in the form that the model was made for.

llama-server's form for /rerank (format_prompt_rerank in server-common.cpp), with one difference: control tokens in
somebody's text are letters also where the model brings a template. Nothing here computes; the scores are the embedder's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from myllm.engine.prompts import Tokenizer, joined, literal
from myllm.engine.tokens import Int32Array
from myllm.errors import ContextLengthExceeded, InvalidRequest
from myllm.types import Span

PLACES = re.compile(r"(\{query\}|\{document\})")


class Ranking:
    """`name` is the model's, for messages; `max_tokens` bounds a query with one document."""

    def __init__(self, tokenizer: Tokenizer, *, name: str, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._max_tokens = max_tokens
        template = tokenizer.rank_template
        self._template_parts = PLACES.split(template) if template else None

    def inputs(self, query: str, documents: list[str]) -> list[Int32Array]:
        """One input a document, in their order. Raises what is wrong with a text, with its place."""
        query_ids = literal(self._tokenizer, query)
        self._check(query_ids, "'query'", "query")
        inputs = []
        for at, document in enumerate(documents):
            document_ids = literal(self._tokenizer, document)
            self._check(document_ids, f"'documents' {at}", "documents")
            both = self._beside(query_ids, document_ids) if self._template_parts is None else self._filled(query, document)
            self._check(both, f"'documents' {at} with the query", "documents")
            inputs.append(both)
        return inputs

    def _check(self, token_ids: Int32Array, what: str, param: str) -> None:
        if not len(token_ids):
            raise InvalidRequest(f"{what} is empty: it has no tokens", param=param)
        if len(token_ids) > self._max_tokens:
            raise ContextLengthExceeded(
                f"{what} has {len(token_ids):,} tokens, model '{self._name}' takes {self._max_tokens:,}; shorten it", param=param
            )

    def _beside(self, query: Int32Array, document: Int32Array) -> Int32Array:
        """BOS query EOS SEP document EOS, each only where the vocabulary wants it; SEP ends a text where there is no EOS."""
        special = self._tokenizer.special
        end = special.sep if special.eos is None else special.eos
        ends = [end] if special.adds_eos and end is not None else []
        seps = [special.sep] if special.adds_sep and special.sep is not None else []
        return joined(special.before, query, ends + seps, document, ends)

    def _filled(self, query: str, document: str) -> Int32Array:
        """The model's template with both texts in it: llama.cpp's tokens for the whole, unless a text holds control tokens."""
        spans = tuple(self._spans({"{query}": query, "{document}": document}))
        if not any(self._tokenizer.holds_control_tokens(span.text) for span in spans if span.is_literal):
            spans = (Span("".join(span.text for span in spans)),)
        return self._tokenizer.tokenize(spans, add_special=False)

    def _spans(self, texts: dict[str, str]) -> Iterator[Span]:
        assert self._template_parts is not None
        for part in self._template_parts:
            if part:
                yield Span(texts.get(part, part), is_literal=part in texts)
