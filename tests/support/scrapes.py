"""What Prometheus would scrape of a real Ray."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

import ray

from support.patience import until

Series = dict[str, list[tuple[dict[str, str], float]]]


def scrape() -> Series:
    """Return name → labels and value of each series at the node of this process."""
    (node,) = [each for each in ray.nodes() if each["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: Series = {}
    with urllib.request.urlopen(url, timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            match = re.fullmatch(r"(ray_\w+)\{(.*)\} (\S+)", line)
            if match:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


def hold(checked: Callable[[Series], None]) -> None:
    """Look until what is asserted of a scrape holds: Ray hands values on now and then, singly."""
    failed: list[Exception] = []

    def holds() -> bool:
        try:
            checked(scrape())
        except (OSError, AssertionError, ValueError) as error:
            failed[:] = [error]
            return False
        return True

    try:
        until(holds, every_s=1.0)
    except AssertionError:
        raise failed[-1] from None


def of(found: Series, name: str, **labels: str) -> list[float]:
    return [value for borne, value in found.get(name, ()) if labels.items() <= borne.items()]
