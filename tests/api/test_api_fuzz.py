"""What the description promises, against whatever a client may send (bounded)."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from api_site import TOKENS, Site
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

pytest_plugins = ("api_site",)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("role", ["editor", "reader"])
def test_every_answer_is_described(site: Site, mode: GenerationMode, role: str) -> None:
    schema = schemathesis.openapi.from_url(f"{site.url}/api/v1/openapi.json")
    operation = schema["/decisions"]["POST"]
    statuses: set[int] = set()

    @settings(
        max_examples=40, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def asks(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body["stream"] = "newsletter"  # no description can tell which there are
        answer = case.call_and_validate(
            headers={"authorization": f"Bearer {TOKENS[role]}"},
            excluded_checks=[ignored_auth],  # it cannot take away a header that we give
        )
        statuses.add(answer.status_code)

    asks()
    if mode is GenerationMode.POSITIVE:
        assert statuses <= {200, 403}
        assert 200 in statuses
    else:
        assert statuses <= {400, 401, 422}
        assert 422 in statuses


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("role", ["editor", "reader"])
def test_every_answer_about_events_is_described(
    site: Site, mode: GenerationMode, role: str
) -> None:
    """Which columns go together no description can tell, so what it allows may be 422, too."""
    schema = schemathesis.openapi.from_url(f"{site.url}/api/v1/openapi.json")
    operation = schema["/events"]["POST"]
    statuses: set[int] = set()

    @settings(
        max_examples=40, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def reports(case: Any) -> None:
        answer = case.call_and_validate(
            headers={"authorization": f"Bearer {TOKENS[role]}"},
            excluded_checks=[ignored_auth, positive_data_acceptance],
        )
        statuses.add(answer.status_code)

    reports()
    assert statuses <= {200, 400, 401, 403, 422}
    assert statuses & {403, 422}
