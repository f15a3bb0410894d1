"""From what the engine wrote to what is answered: the gate's word, then attribution. Between the engine and the protocols."""

import logging
from dataclasses import replace
from typing import Any

from serving.attribution import AttributionMode, Attributor
from serving.gate import Gate
from serving.request import Completion, CompletionRequest, StopReason
from serving.type_through import ShownSuggestions

logger = logging.getLogger(__name__)


class Answers:
    """What is done to each completion before a protocol answers with it."""

    def __init__(
        self,
        gate: str | None = None,
        precision: float | None = None,
        attributor: Attributor | None = None,
        suggestions: ShownSuggestions | None = None,
    ) -> None:
        """gate: as the bundle has it. precision: for requests that ask for none; None hides nothing. suggestions: remember what
        is answered, for those who type it.
        """
        self.gate = usable(gate)
        self.precision = precision
        self.attributor = attributor
        self._suggestions = suggestions
        self._blind = False
        """Whether the model tells no log-probabilities, so that the gate cannot judge."""

    @property
    def holds_back(self) -> bool:
        """Whether a text may be shortened after it was written, so that none of it can be streamed before."""
        return self.attributor is not None and self.attributor.mode is AttributionMode.BLOCK

    async def finish(self, request: CompletionRequest, completion: Completion) -> Completion:
        """The completion as it is to be answered. What is left of one that was shown stays shown."""
        if completion.remembered:
            return completion
        if self.gate is not None and self._can_be_judged(completion):
            precision = self.precision if request.precision is None else request.precision
            completion = self.gate.judge(request, completion, precision)
        if self.attributor is not None:
            others = [await self.attributor.attribute(request, one) for one in completion.alternatives]
            if completion.shown:
                completion = await self.attributor.attribute(request, completion)
            completion = replace(completion, alternatives=tuple(one for one in others if one.shown))
        if self._suggestions is None:
            return completion
        if completion.shown and self._suggestions.sent_away(request, completion.text):
            return replace(completion, hidden_by="dismissed")
        if completion.stop_reason is not StopReason.DEADLINE:  # with more time there would have been more of it
            self._suggestions.remember(request, replace(completion, remembered=True))
        return completion

    def _can_be_judged(self, completion: Completion) -> bool:
        """Whether it has log-probabilities, or nothing to judge; the first one without them is told of."""
        blind = bool(completion.text) and not completion.logprobs
        if blind and not self._blind:
            logger.warning("the model tells no log-probabilities: the gate judges nothing, and all completions are shown")
        self._blind = self._blind or blind
        return not blind

    def health(self) -> dict[str, Any]:
        """What a server tells of it: the default precision with whether it can be met; attribution, the size of its index in
        bytes, and whether all of that has been read.
        """
        gate = self.gate and {
            "precision": self.precision,
            "best_precision": self.gate.best_precision,
            "reachable": self.precision is None or not (self._blind or self.gate.threshold(self.precision) is None),
        }
        one = self.attributor
        mode, size, ready = (one.mode, one.bytes, one.ready) if one else (AttributionMode.OFF, 0, True)
        return {"gate": gate, "attribution": {"mode": mode.value, "index_bytes": size, "ready": ready}}

    def close(self) -> None:
        """Ends its threads."""
        if self.attributor is not None:
            self.attributor.close()


def usable(gate: str | None) -> Gate | None:
    """The gate of a bundle; None if it has none, or one of a version that is not understood: then nothing is hidden."""
    if gate is None:
        return None
    try:
        return Gate.from_json(gate)
    except ValueError as error:
        logger.warning("the model's gate is not used (%s); run `codelm calibrate` again", error)
        return None
