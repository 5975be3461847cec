"""Which test guards which module: the one of its own name, or the one that is listed here."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path
    for top in ("tracer", "exporters")
    for path in ROOT.glob(f"{top}/**/*.py")
    if path.name != "__init__.py"
)
COVERED_BY = {
    "exporters/http/listener.py": "unit/exporters/http/test_auth.py",
    "exporters/http/requests.py": "unit/exporters/http/test_switch.py",
    "exporters/http/rights.py": "unit/exporters/http/test_switch.py",
    "exporters/http/server.py": "unit/exporters/http/test_auth.py",
    "exporters/prometheus/series.py": "unit/exporters/prometheus/test_collector.py",
    "exporters/terminal/flows.py": "unit/exporters/terminal/test_views.py",
    "exporters/terminal/history.py": "unit/history/test_report.py",
    "exporters/terminal/proof.py": "unit/exporters/pages/test_proof.py",
    "exporters/terminal/table.py": "unit/exporters/terminal/test_views.py",
    "exporters/terminal/targets.py": "unit/cli/test_targets.py",
    "tracer/__main__.py": "unit/cli/test_parser.py",
    "tracer/bpf/engine.py": "kernel/test_engine.py",
    "tracer/bpf/hooks.py": "kernel/test_engine.py",
    "tracer/bpf/inventory.py": "kernel/test_lifetime.py",
    "tracer/bpf/libbpf.py": "kernel/test_engine.py",
    "tracer/bpf/loader/object.py": "kernel/test_engines.py",
    "tracer/bpf/loader/programs.py": "kernel/test_engines.py",
    "tracer/bpf/maps/members.py": "kernel/test_programs.py",
    "tracer/bpf/maps/tables.py": "kernel/test_exactness.py",
    "tracer/cli/block.py": "kernel/test_block_cli.py",
    "tracer/cli/confine.py": "kernel/test_confine.py",
    "tracer/cli/doctor.py": "kernel/test_cli_host.py",
    "tracer/cli/flows.py": "kernel/test_cli_host.py",
    "tracer/cli/notify.py": "deploy/test_notify.py",
    "tracer/cli/open.py": "kernel/test_page_switch.py",
    "tracer/cli/perform.py": "kernel/test_page_switch.py",
    "tracer/cli/prove.py": "kernel/test_prove.py",
    "tracer/cli/reload.py": "kernel/test_cli_host.py",
    "tracer/cli/report.py": "kernel/test_report.py",
    "tracer/cli/restore.py": "kernel/test_gaps.py",
    "tracer/cli/run.py": "kernel/test_cli_host.py",
    "tracer/cli/status.py": "kernel/test_metrics.py",
    "tracer/cli/suggest.py": "unit/history/test_suggest.py",
    "tracer/cli/unblock.py": "kernel/test_block_cli.py",
    "tracer/cli/verify.py": "unit/proof/test_verify.py",
    "tracer/cli/watch.py": "kernel/test_cli_host.py",
    "tracer/command/caller.py": "kernel/test_confine.py",
    "tracer/command/child.py": "kernel/test_prove.py",
    "tracer/command/enclosure.py": "kernel/test_confine.py",
    "tracer/containers/docker.py": "unit/containers/test_engines.py",
    "tracer/containers/follower.py": "unit/containers/test_engines.py",
    "tracer/containers/grpc.py": "unit/containers/test_cri.py",
    "tracer/containers/index.py": "unit/containers/test_engines.py",
    "tracer/containers/inotify.py": "unit/containers/test_engines.py",
    "tracer/containers/sources.py": "unit/containers/test_engines.py",
    "tracer/containers/storage.py": "kernel/test_containers_real.py",
    "tracer/daemon/control.py": "kernel/test_cli_host.py",
    "tracer/daemon/daemon.py": "kernel/test_service.py",
    "tracer/daemon/notices.py": "deploy/test_notify.py",
    "tracer/daemon/options.py": "unit/test_config.py",
    "tracer/daemon/sdnotify.py": "kernel/test_cli_host.py",
    "tracer/daemon/signals.py": "kernel/test_cli_host.py",
    "tracer/daemon/start.py": "kernel/test_service.py",
    "tracer/daemon/switching.py": "kernel/test_page_switch.py",
    "tracer/daemon/worker.py": "unit/daemon/test_helper.py",
    "tracer/errors.py": "unit/cli/test_parser.py",
    "tracer/history/destinations.py": "unit/history/test_suggest.py",
    "tracer/history/query.py": "unit/history/test_report.py",
    "tracer/history/reader.py": "unit/history/test_store.py",
    "tracer/host/capabilities.py": "kernel/test_service.py",
    "tracer/host/clock.py": "unit/names/test_observer.py",
    "tracer/host/faults.py": "unit/containers/test_engines.py",
    "tracer/host/files.py": "unit/policy/test_store.py",
    "tracer/host/hosts_file.py": "unit/names/test_cache.py",
    "tracer/model/destination.py": "unit/names/test_cache.py",
    "tracer/model/jsonlines.py": "unit/model/test_records.py",
    "tracer/model/rows.py": "unit/bpf/test_abi.py",
    "tracer/model/status.py": "unit/exporters/prometheus/test_collector.py",
    "tracer/model/totals.py": "unit/history/test_report.py",
    "tracer/names/queries.py": "unit/names/test_observer.py",
    "tracer/names/quic.py": "unit/names/test_tls.py",
    "tracer/names/reassembly.py": "unit/names/test_tls.py",
    "tracer/netlink/sock_diag.py": "kernel/test_cut.py",
    "tracer/notify/desktop.py": "deploy/test_notify.py",
    "tracer/policy/enforcement.py": "kernel/test_blocked.py",
    "tracer/policy/keep.py": "kernel/test_switch.py",
    "tracer/policy/local_names.py": "kernel/test_resolvers.py",
    "tracer/policy/openings.py": "kernel/test_name_rules.py",
    "tracer/policy/own_addresses.py": "kernel/test_own_addresses.py",
    "tracer/policy/tables.py": "kernel/test_blocked.py",
    "tracer/proof/canonical.py": "unit/proof/test_verify.py",
    "tracer/proof/limits.py": "kernel/test_prove.py",
    "tracer/proof/observer.py": "kernel/test_prove.py",
    "tracer/proof/seccomp.py": "kernel/test_prove.py",
    "tracer/proof/signing.py": "unit/proof/test_verify.py",
    "tracer/proof/sockets.py": "kernel/test_prove.py",
    "tracer/proof/window.py": "kernel/test_prove.py",
    "tracer/runtimes/detect.py": "unit/cli/test_targets.py",
    "tracer/runtimes/keep.py": "unit/runtimes/test_profiles.py",
    "tracer/runtimes/questions.py": "kernel/test_profiles.py",
    "tracer/runtimes/switches.py": "unit/cli/test_targets.py",
    "tracer/session/archive.py": "unit/exporters/prometheus/test_collector.py",
    "tracer/session/flows.py": "unit/runtimes/test_purposes.py",
    "tracer/session/session.py": "kernel/test_lifetime.py",
    "tracer/targets/containers.py": "kernel/test_containers_real.py",
    "tracer/targets/marks.py": "kernel/test_programs.py",
    "tracer/targets/membership.py": "unit/targets/test_finder.py",
    "tracer/targets/processes.py": "unit/model/test_process.py",
}


def own_test(module: Path) -> Path:
    """Return where the test of a module's own name would be."""
    inside = module.relative_to(ROOT)
    place = inside.relative_to("tracer") if inside.parts[0] == "tracer" else inside
    return ROOT / "tests" / "unit" / place.parent / f"test_{module.stem}.py"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_has_its_test(module: Path) -> None:
    """A module without a test of its own name is listed with the test that fails when it breaks."""
    name = str(module.relative_to(ROOT))
    if own_test(module).exists():
        assert name not in COVERED_BY, f"{name} has a test of its own: take it off the list"
    else:
        assert name in COVERED_BY, f"{name} has no test of its own: write {own_test(module)}, or list it"
        assert (ROOT / "tests" / COVERED_BY[name]).exists(), COVERED_BY[name]


def test_the_list_has_no_module_that_is_gone() -> None:
    """What was moved or deleted leaves the list, too."""
    gone = {name for name in COVERED_BY if not (ROOT / name).exists()}
    assert not gone
