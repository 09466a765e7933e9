import pytest
from ablation_fakes import FakeExecutor


@pytest.fixture
def executor(monkeypatch):
    """Puts a FakeExecutor in the place of the local one."""

    def install(**options):
        fake = FakeExecutor(**options)
        monkeypatch.setattr("scrpo_cli.ablation.executor.LocalExecutor", lambda *_, **__: fake)
        return fake

    return install
