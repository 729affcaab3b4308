"""What a search found, for people."""

from aqd_deploy.reporting.search_view import search_view


def document(ms):
    total = {"drop": 1.5, "loss": 0.1, "ms": ms, "megabytes": 0.7}
    row = {"layer": "backbone." + "x" * 40, "bits": 4, "loss_alone": 0.01, "loss_accumulated": 0.02, "ms": ms,
           "ms_widest": ms, "megabytes": 0.125}  # fmt: skip
    return {
        "goal": {"drop": 2.0}, "judged_by": "AP of the float network's own boxes", "layers": [row] * 3,
        "milliseconds_from": "" if ms is None else "cost model", "total": total, "uniform": {"8": total},
    }  # fmt: skip


def test_it_has_layers_and_totals_in_80_columns():
    view = search_view(document(0.5))
    assert max(map(len, view.splitlines())) <= 80
    assert "found    1.5  0.5  0.7" in view and "8 bits   1.5  0.5  0.7" in view
    assert "ms: cost model" in view and "at most 2 drop" in view


def test_without_a_target_there_are_no_milliseconds():
    assert "ms: " not in search_view(document(None))
