"""Whether loaded versions still answer golden rows as they should, asked on the running server.

Shapes: n rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError
from cascade_router.policy import Policy
from cascade_router.walk import Walk

from .editions import Edition
from .golden import FILE, Golden
from .running import Running
from .runtime import OUTPUT

__all__ = ["GoldenCheck"]

TOLERANCE = {"fp32": 0.01}
"""Largest |difference| of two logits taken as equal, as a share of the logits' deviation: engines
round differently on another processor and at another batch size."""

_COARSE = 0.1
"""The same for experts that compute in less than fp32."""

_CONFIDENCE = 0.01
_DRAWS = 4

Logits = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCheck:
    """Golden rows of an edition, and how its models take them.

    Attributes:
        server: Is asked.
        edition: What is checked.
        golden: Rows and what the experts answered when they were built.
        policy: Of the edition.
        port: Name and Triton's dtype of the input.
        max_batch: Most rows in one call.
    """

    server: Running
    edition: Edition
    golden: Golden
    policy: Policy
    port: tuple[str, str]
    max_batch: int

    @classmethod
    def of(cls, server: Running, root: Path, edition: Edition) -> GoldenCheck:
        """Read what lies beside an edition's router.

        Raises:
            BuildError: If the golden rows cannot be read.
            PolicyError: If the policy cannot be read.
        """
        from tritonclient.grpc import model_config_pb2

        from .triton_config import parse

        folder = edition.folder(root)
        config = parse((root / edition.router_model / "config.pbtxt").read_text(encoding="utf-8"))
        dtype = model_config_pb2.DataType.Name(config.input[0].data_type).removeprefix("TYPE_")
        return cls(
            server=server,
            edition=edition,
            golden=Golden.read(folder / FILE),
            policy=Policy.read(folder / "policy.json"),
            port=(config.input[0].name, dtype),
            max_batch=config.max_batch_size,
        )

    def expert(self, name: str) -> npt.NDArray[np.float32]:
        """Check an expert's version; where its answers were not kept, that they are finite.

        Returns:
            (n, C) its logits now.

        Raises:
            BuildError: If it answers otherwise than when it was built.
            TierError: If it does not answer.
        """
        entry = next(one for one in self.edition.manifest["experts"] if one["name"] == name)
        model, version = str(entry["model"]), int(entry["version"])
        found = self._ask(model, version, [OUTPUT], {})[OUTPUT]
        wanted = self.golden.logits.get(name)
        if wanted is None:
            if not np.isfinite(found).all():
                self._refuse(
                    f"expert {name!r} (version {version}) gives logits that are not finite"
                )
            return found
        share = TOLERANCE.get(str(entry.get("precision")), _COARSE)
        allowed = share * float(np.nanstd(wanted))
        if found.shape != wanted.shape or not np.allclose(
            found, wanted, rtol=0, atol=allowed, equal_nan=True
        ):
            same = found.shape == wanted.shape
            gap = f"{np.nanmax(np.abs(found - wanted)):.3g}" if same else f"shape {found.shape}"
            self._refuse(
                f"expert {name!r} (version {version}) answers the golden rows otherwise than when "
                f"it was built: logits differ by up to {gap}, expected at most {allowed:.3g}"
            )
        return found

    def router(self, logits: Logits) -> int:
        """Check the router from end to end, at every operating point.

        Args:
            logits: What each expert answers now, by name.

        Returns:
            How many answers were compared.

        Raises:
            BuildError: If one differs from what policy and experts say, or none can be compared.
            TierError: If it does not answer.
        """
        tiers = [np.asarray(logits[tier.name]) for tier in self.policy.tiers]
        wanted = ["LABEL", "TIER", "CONFIDENCE"]
        compared = 0
        for index, point in enumerate(self.policy.points):
            found = self._ask(
                self.edition.router_model,
                self.edition.router,
                wanted,
                {"cascade_point": point.name},
            )
            label, tier, confidence = (found[name].reshape(-1) for name in wanted)
            expected = self._walked(tiers, index)
            # A row near to a gate may fall either way: engines round as the batch has it.
            sure = self._sure(tiers, index, expected)
            near = np.abs(confidence - expected.confidence) <= _CONFIDENCE
            right = (label == expected.label) & (tier == expected.exit_tier) & near
            if not right[sure].all():
                wrong = f"{int((~right[sure]).sum())} of {int(sure.sum())} golden rows"
                self._refuse(
                    f"the router (version {self.edition.router}) answers {wrong} at point "
                    f"{point.name!r} otherwise than its experts and its policy say"
                )
            compared += int(sure.sum())
        if not compared:
            message = (
                f"{self.server.url}: no golden row can check the router (version "
                f"{self.edition.router}): all lie at a gate or between two labels"
            )
            hint = "it was not switched to; give rows of every kind in [rows] of the spec"
            raise BuildError(message, hint=hint)
        return compared

    def _sure(
        self, tiers: list[npt.NDArray[np.float32]], point: int, expected: Walk
    ) -> npt.NDArray[np.bool_]:
        """Say which rows are answered the same when the logits are a little off: (n,) bool."""
        generator = np.random.default_rng(0)
        sure = np.ones(len(self.golden.rows), dtype=bool)
        for _ in range(_DRAWS):
            moved = [
                one + generator.uniform(-1, 1, one.shape) * TOLERANCE["fp32"] * np.nanstd(one)
                for one in tiers
            ]
            other = self._walked(moved, point)
            same = (other.label == expected.label) & (other.exit_tier == expected.exit_tier)
            sure &= same
        return sure

    def _walked(self, tiers: list[Any], point: int) -> Walk:
        options = self.edition.manifest.get("router", {})
        walk = Walk(
            self.policy,
            point=np.full(len(self.golden.rows), point),
            abstain_below=float(options.get("abstain_below", "-inf")),
        )
        while (step := walk.next()) is not None:
            walk.settle(step.tier, step.rows, np.asarray(tiers[step.tier])[step.rows])
        return walk

    def _ask(
        self, model: str, version: int, outputs: list[str], parameters: dict[str, str]
    ) -> dict[str, npt.NDArray[Any]]:
        name, dtype = self.port
        rows = self.golden.rows
        parts = [
            self.server.ask(
                model, version, {name: (dtype, rows[i : i + self.max_batch])}, outputs, parameters
            )
            for i in range(0, len(rows), self.max_batch)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in outputs}

    def _refuse(self, what: str) -> None:
        message = f"{self.server.url}: {what}"
        raise BuildError(message, hint="it was not switched to; look into the server's log")
