"""A where whose other branch cannot spoil the gradient."""

from __future__ import annotations

from unvanish.remedies import Change, Draft, Refused, remedy, rewriting, surgery
from unvanish.remedies.finite import owners, refuse_finite
from unvanish.remedies.swap import traced


@remedy(
    "guard-where",
    "branches of where that are not taken kept finite",
    kind="numbers",
    answers=("UV501", "UV502"),
    cures_on=("where-exp",),
    no_help_on=("nonfinite-log", "lr-too-small", "masked-rows"),
    only_for="fault",
)
def guard_where(draft: Draft) -> Change:
    """What a ``where`` does not choose is computed from a harmless number.

    What: in every ``torch.where(c, f(x), g(x))``, exponentials, logarithms, roots, powers and quotients of a branch get
    1/2 in place of x wherever the other branch is chosen. The outputs stay as they are, bit for bit where chosen.
    Helps: the gradient of the branch that is not chosen is 0 times its slope, and 0 times an infinite slope is nan: an
    exponential that overflows, a logarithm or a root at 0.
    Does not help: numbers that leave the range in the branch that is chosen. It is refused where loss and gradient are
    finite, and where torch.fx cannot read the forward.
    Source: Griewank & Walther 2008, Evaluating derivatives, chapter 14; the PyTorch and JAX manuals on where.
    """
    refuse_finite(draft)
    paths = owners(draft, ("where",))
    if not paths:
        raise Refused("nothing that runs calls torch.where")
    paths = [path for path in paths if _is_at_risk(draft, path)]
    if not paths:
        raise Refused("no branch of a torch.where holds a call whose slope may be infinite")
    code = [f"model = rewritten(model, {path!r}, guard_where)" for path in paths]
    parts = [surgery.put, surgery.trace, rewriting.rewritten, rewriting.guard_where]
    sentence = "branches of torch.where computed from 1/2 where they are not taken"
    return draft.apply(sentence, parts, code, paths)


def _is_at_risk(draft: Draft, path: str) -> bool:
    """Whether the guards make more calls of ``where`` than there were."""
    changed = surgery.trace(draft.model.get_submodule(path))
    rewriting.guard_where(changed)
    return str(changed).count("where") > str(traced(draft, path)).count("where")
