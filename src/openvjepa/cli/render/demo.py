"""What `vjepa demo` shows."""

from __future__ import annotations

from openvjepa.cli.console import say
from openvjepa.commands.demo import DemoResult
from openvjepa.config import DemoConfig


def demo(result: DemoResult, config: DemoConfig) -> None:
    """Accuracies by label, features and probe, and where the report is."""
    results, chance = result.results, result.chance
    kinds = list(results["motion"]["pretrained"])
    say(f"\n{'test top-1 in %':<28}" + "".join(f"{kind:>11}" for kind in kinds))
    for label, features in results.items():
        for name, row in features.items():
            say(f"{label + ', ' + name:<28}" + "".join(f"{row[kind]:>11.1f}" for kind in kinds))
        say(f"{label + ', chance':<28}" + f"{chance[label]:>11.1f}" * len(kinds))
    say(f"\n{result.lead}\n{result.seconds:.0f} s in all. Look at {result.report}")
