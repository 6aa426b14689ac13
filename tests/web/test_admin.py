"""Metrics and health, as Prometheus and a kubelet see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from web_site import Site, Sites  # type: ignore[import-not-found,unused-ignore]

from proxy.web.admin import admin_app

pytest_plugins = ("web_site",)


@dataclass
class Health:
    answer: bool = True
    body: Mapping[str, object] = field(default_factory=lambda: {"status": "ready"})

    def ready(self) -> tuple[bool, Mapping[str, object]]:
        return self.answer, self.body


async def test_metrics_are_the_registry(sites: Sites, site: Site) -> None:
    port = await sites.serve(admin_app(site.telemetry, Health()))
    await site.client.post(site.link())
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.get("/metrics")
    body, content_type = site.telemetry.render()
    assert answer.headers["content-type"] == content_type
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    counted = [
        sample.value
        for sample in families["sluis_optouts"].samples
        if sample.labels == {"stream": "newsletter", "via": "one-click"}
        and sample.name.endswith("_total")
    ]
    assert counted == [1]
    assert len(answer.content) == pytest.approx(len(body), abs=200)


async def test_health_and_readiness(sites: Sites, site: Site) -> None:
    health = Health(False, {"status": "starting"})
    port = await sites.serve(admin_app(site.telemetry, health))
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        alive = await client.get("/healthz")
        assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
        starting = await client.get("/readyz")
        assert starting.status_code == 503
        assert starting.json() == {"status": "starting", "degraded": []}
        health.answer = True
        health.body = {"status": "ready", "degraded": ["upstream a:25"]}
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {"status": "ready", "degraded": ["upstream a:25"]}
        assert ready.headers["content-type"] == "application/json"
        assert ready.headers["cache-control"] == "no-store"


async def test_nothing_else_is_there(sites: Sites, site: Site) -> None:
    port = await sites.serve(admin_app(site.telemetry, Health()))
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for path in ("/", "/docs", "/metrics/", "/u/x", "/openapi.json"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/readyz")).status_code == 405
