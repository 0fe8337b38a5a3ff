"""Finding the terms of a state dict: which keys are theirs, whether they fit, and what is folded into which base keys.

The term of the site at prefix P has the keys P + relaxation.weight (or .up and .down), .theta and ._extra_state, its
record. Prefixes are matched from their end, so that wrappers (`module.`, `_orig_mod.`) and nesting do not matter.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from relaxify.checkpoint.state import StateDict, StoredTerm
from relaxify.modules.hanging import CHILD, key_of, owner_prefix
from relaxify.record import CheckpointError, Record

RECORD_KEY = key_of("", "_extra_state")
# one memory can be many records and many weights: together, beyond what the file has
FREE_BYTES, TIMES_THE_FILE = 32 * 1024**2, 8
# of one path in the model, among which one term is looked for
NAMESAKES = 32


def is_term_key(key: str) -> bool:
    """Whether a key reads as one of a term's; a module of the model's own may be called `relaxation` too."""
    *_, module, name = ["", *key.split(".")]
    return module == CHILD and name in ("weight", "up", "down", "theta", "_extra_state")


def _is_record_key(key: str) -> bool:
    return key == RECORD_KEY or key.endswith(f".{RECORD_KEY}")


def find_terms(state: StateDict) -> tuple[StoredTerm, ...]:
    """The terms of a state dict. CheckpointError if a record is invalid, lacks its tensors, or does not fit them."""
    records = _records(state)
    _check_strays(state, records)
    whole: defaultdict[str, list[str]] = defaultdict(list)
    for prefix, record in records.items():
        if _has_tensors(state, prefix, record) and len(whole[record.path]) < NAMESAKES:
            whole[record.path].append(prefix)
    terms = tuple(_term(state, prefix, records, whole) for prefix in records)
    _check_sizes(state, [key for term in terms for key in term.weight_keys])
    for term in terms:
        _check_term_shapes(term)
        _check_base_shapes(term)
    return terms


def _records(state: StateDict) -> dict[str, Record]:
    """The records by their terms' prefixes; one memory is decoded once."""
    keys = [key for key in state.shapes if _is_record_key(key)]
    first = {key: state.same_as.get(key, key) for key in keys}
    _check_sizes(state, set(first.values()))
    decoded = {key: _decode(state, key) for key in dict.fromkeys(first.values())}
    return {_printable(key).removesuffix(RECORD_KEY): decoded[first[key]] for key in keys}


def _check_sizes(state: StateDict, keys: Iterable[str]) -> None:
    if sum(math.prod(state.shapes[key]) for key in keys) > FREE_BYTES + TIMES_THE_FILE * state.file_size:
        raise CheckpointError("its terms are many times as large as the file that holds them; save the model again.")


def symmetrised_targets(terms: Iterable[StoredTerm]) -> dict[str, tuple[StoredTerm, str]]:
    """The weights of ordinary convolutions, of which the symmetric part stays."""
    return {f"{term.base_prefix}weight": (term, "weight") for term in terms if term.record.symmetriser}


def fold_targets(terms: Iterable[StoredTerm]) -> dict[str, tuple[StoredTerm, str]]:
    """Which base key gains which term's updates to which parameter. CheckpointError if that cannot be told.

    A module with a term of its own takes that one, even where the file has untied what was shared.
    """
    own = {term.prefix: term for term in terms if term.record.is_foldable}
    targets: dict[str, tuple[StoredTerm, str]] = {}
    for term in own.values():
        _claim(targets, term.base_prefix, term)
    for term in own.values():
        for alias in term.aliases:
            if alias is None:
                raise CheckpointError(
                    f"{term.path} shares its weight with {', '.join(term.record.aliases)}, whose place in this "
                    f"checkpoint cannot be told; fold a checkpoint of the whole unwrapped model, or drop the term."
                )
            if alias not in own or own[alias].record != term.record:
                _claim(targets, alias, term)
    return targets


def _claim(targets: dict[str, tuple[StoredTerm, str]], prefix: str, term: StoredTerm) -> None:
    for parameter in term.record.parameters:
        key = prefix + parameter
        if key not in term.state.shapes:
            continue
        first, name = targets.setdefault(key, (term, parameter))
        if first.record != term.record or name != parameter:
            raise CheckpointError(f"{key} would be folded twice, for {first.path} and {term.path}; drop the terms instead.")


def _printable(key: str) -> str:
    if not key.isprintable():
        raise CheckpointError(f"the key {key!r} has unprintable characters; rename its module.")
    return key


def _decode(state: StateDict, key: str) -> Record:
    tensor = state.load(_printable(key))
    try:
        return Record.decode(tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error


def _check_strays(state: StateDict, records: Mapping[str, Record]) -> None:
    """A module of the model's own may be called `relaxation`: it has no record, and other names than a term has."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    for key in state.shapes:
        prefix, found, name = f".{key}".rpartition(f".{CHILD}.")
        if found:
            children[f"{prefix}."[1:]].add(name)
    for prefix, names in children.items():
        if prefix not in records and names <= {"weight", "up", "down", "theta"}:
            raise CheckpointError(
                f"{key_of(prefix, min(names))} belongs to a term whose record {key_of(prefix, '_extra_state')} is "
                f"missing; save the relaxed model's whole state_dict again."
            )
        if prefix in records and (extra := names - {*records[prefix].weight_keys, "theta", "_extra_state"}):
            raise CheckpointError(
                f"{key_of(prefix, min(extra))} is not a key of the term that its record describes; save the relaxed "
                f"model again."
            )


def _has_tensors(state: StateDict, prefix: str, record: Record) -> bool:
    return all(key_of(prefix, name) in state.shapes for name in (*record.weight_keys, "theta"))


def _term(state: StateDict, prefix: str, records: Mapping[str, Record], whole: Mapping[str, Sequence[str]]) -> StoredTerm:
    """`whole`: prefixes of terms that the file has all tensors of, by the paths in their records."""
    record = records[prefix]
    aliases = _alias_prefixes(prefix, record)
    names = (*record.weight_keys, "theta")
    others = [alias for alias in aliases if alias is not None and records.get(alias) == record]
    for owner in itertools.chain((prefix, *others), _namesakes(prefix, records, whole)):
        if _has_tensors(state, owner, record):
            return StoredTerm(state, prefix, record, owner, aliases)
    missing = next(key for name in names if (key := key_of(prefix, name)) not in state.shapes)
    raise CheckpointError(f"{missing} is missing though its record is there; save the relaxed model again.")


def _namesakes(prefix: str, records: Mapping[str, Record], whole: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A layer of several names has one record, and some files keep its tensors under one name alone: the likest first."""
    here = prefix.split(".")
    found = [other for other in whole.get(records[prefix].path, ()) if records[other] == records[prefix]]
    yield from sorted(found, key=lambda other: -_common_tail(here[::-1], other.split(".")[::-1]))


def _alias_prefixes(prefix: str, record: Record) -> tuple[str | None, ...]:
    """Where in this file the other modules of a term are; None where this prefix does not tell.

    A record's names are relative to the relaxed model, which may be wrapped, nested or cut out in the file. The name
    that agrees with this prefix in most components is taken for its own; what is ahead of it here, or lacking, is so
    for the others.
    """
    here = _split(prefix.removesuffix("."))
    names = [_split(name) for name in (record.path, *record.aliases)]
    own = max(names, key=lambda name: _common_tail(here, name))
    common = _common_tail(here, own)
    ahead, lacking = here[: len(here) - common], own[: len(own) - common]
    return tuple(
        "".join(f"{part}." for part in [*ahead, *name[len(lacking) :]]) if name[: len(lacking)] == lacking else None
        for name in names
        if name is not own
    )


def _split(path: str) -> list[str]:
    return path.split(".") if path else []


def _common_tail(first: list[str], second: list[str]) -> int:
    pairs = list(zip(reversed(first), reversed(second), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _check_term_shapes(term: StoredTerm) -> None:
    shapes = term.state.shapes
    rows, columns = term.record.shape
    if len(term.weight_keys) == 1:
        expected = [(rows, columns)]
    else:
        rank = next(iter(shapes[term.weight_keys[1]]), 0)
        expected = [(rows, rank), (rank, columns)]
    for key, wanted in zip((*term.weight_keys, term.theta_key), [*expected, ()], strict=True):
        if shapes[key] != wanted:
            raise _misfit(key, shapes[key], wanted)


def _check_base_shapes(term: StoredTerm) -> None:
    shapes = term.state.shapes
    for name, wanted in term.record.base_shapes.items():
        own = (term.base_prefix, *term.aliases, owner_prefix(term.owner, functional=term.record.functional))
        keys = [prefix + name for prefix in dict.fromkeys(own) if prefix is not None]
        if not any(key in shapes for key in keys):
            raise CheckpointError(f"{keys[0]} is missing though the record of its term names it; save the model again.")
        for key in keys:
            if shapes.get(key, wanted) != wanted:
                raise _misfit(key, shapes[key], wanted)


def _misfit(key: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(
        f"{key} has shape {found}, but the record of its term says {wanted}; save the relaxed model again."
    )
