"""The penalties of one batch: which evaluations of the deployed function they need, in one pass where possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .config import SealConfig
from .deployed import DeployedFunction
from .estimators import differentiable_attention
from .ledger import Term
from .penalties import Comparison, delta_seal_autograd, difference_comparison, gseal_comparison
from .preparation import Prepared
from .subgroups import RandomElements

__all__ = ["BatchTerms"]

_TOGETHER = 512
"""Most jets in one pass: it saves what it takes to start another, which no longer counts for more."""


class BatchTerms:
    """The penalties of one batch.

    Parameters
    ----------
    settings, prepared: what to compute, and how
    elements: source of GSEAL's transformations; None without GSEAL
    function: the deployed function, within its traceless pass
    jets: penalty -> number of jets M that it sees, the first ones of the batch
    momenta: (N, 4, P [+ 1]) of the largest M
    weights: of the jets, (N,), or None
    seed: of this step's transformations

    Attributes
    ----------
    terms: penalty -> its sum, after ``compute``
    y: what is compared, y(p) of the batch's jets, after ``compute``
    """

    def __init__(
        self,
        settings: SealConfig,
        elements: RandomElements | None,
        prepared: Prepared,
        function: DeployedFunction,
        jets: Mapping[str, int],
        momenta: Tensor,
        weights: Tensor | None,
        seed: int,
    ) -> None:
        self._settings = settings
        self._elements = elements
        self._prepared = prepared
        self._function = function
        self._jets = jets
        self._momenta = momenta
        self._weights = weights
        self._seed = seed
        self.terms: dict[str, Term] = {}
        self.y = momenta

    def compute(self, output: Tensor | None) -> None:
        """All penalties; ``output`` is the main pass's, where evaluation mode makes no difference to it."""
        by_autograd = "delta_seal" in self._jets and self._prepared.estimator == "autograd"
        if by_autograd:
            self._delta_by_autograd()
        comparisons = {name: self._comparison(name) for name in self._jets if name not in self.terms}
        # autograd's own reference pass is as good, where it has all the jets
        reference_known = by_autograd and self._jets["delta_seal"] == len(self._momenta)
        moved = [comparison.moved for comparison in comparisons.values()]
        if output is None and not reference_known and self._can_go_together(moved):
            self.y, results = self._function.together(self._momenta, moved)
            evaluated: Iterable[tuple[Tensor, Tensor]] = results
        else:
            if not reference_known:
                self._reference(output)
            evaluated = ((self._function(momenta), self._function.usable) for momenta in moved)
        for (name, comparison), (y, usable) in zip(comparisons.items(), evaluated, strict=True):
            self._keep(name, comparison.penalty(y, self.y[: len(y)]), usable)

    def _can_go_together(self, moved: Sequence[Tensor]) -> bool:
        jets = len(self._momenta)
        alike = all(len(momenta) == jets for momenta in moved)
        return self._prepared.together and alike and jets * (1 + len(moved)) <= _TOGETHER

    def _random(self, stream: int) -> torch.Generator:
        return torch.Generator(device=self._momenta.device).manual_seed(self._seed + stream)

    def _keep(self, name: str, per_jet: Tensor, usable: Tensor) -> None:
        # exactly zero in most cases already, but not where the reference is the main pass's output
        if self._weights is not None:
            per_jet = per_jet * self._weights[: len(per_jet)].to(per_jet.dtype)
        total = torch.where(usable, per_jet, torch.zeros_like(per_jet)).sum()
        self.terms[name] = Term(total=total, jets=len(per_jet), excluded=len(per_jet) - usable.sum())

    def _reference(self, output: Tensor | None) -> None:
        if output is None:
            self.y = self._function.reference(self._momenta)
            return
        self._function.check(self._momenta)
        self.y = self._function.compared(output[: len(self._momenta)])

    def _comparison(self, name: str) -> Comparison:
        """GSEAL, or deltaSEAL by finite differences."""
        momenta = self._momenta[: self._jets[name]]
        if name == "gseal":
            assert self._elements is not None
            elements = self._elements.draw(len(momenta), self._random(0))
            return gseal_comparison(momenta, elements.momenta, elements.outputs)
        prepared = self._prepared
        assert prepared.basis is not None
        return difference_comparison(
            momenta,
            prepared.basis.momenta,
            prepared.step,
            self._random(1),
            prepared.basis.outputs,
            prepared.norm,
            self._function.on_the_same_side,
        )

    def _delta_by_autograd(self) -> None:
        section, prepared = self._settings.delta_seal, self._prepared
        assert section is not None
        assert prepared.basis is not None
        assert prepared.frame is not None
        with differentiable_attention():
            per_jet, self.y = delta_seal_autograd(
                self._function.reference,
                self._momenta[: self._jets["delta_seal"]],
                prepared.basis.momenta,
                prepared.frame,
                self._random(1),
                section.projections,
                prepared.basis.outputs,
                create_graph=torch.is_grad_enabled(),
            )
        self._keep("delta_seal", per_jet, self._function.usable)
