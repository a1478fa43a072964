"""The figures in the terminal."""

from rich.console import Console

from lit_robust.evaluation.table import results_table


def figure(kind="adversary", **options):
    share = {"accuracy": 0.4327, "correct": 4327, "n": 10_000, "interval_95": [0.42301, 0.44244]}
    return (
        {"kind": kind, "threat_model": "L∞ 8/255", "forwards": 12345, "backwards": 678, "seconds": 9.87}
        | share
        | options
    )


def text(worst):
    results = {
        "clean": {"accuracy": 0.9, "correct": 9000, "n": 10_000, "interval_95": [0.894, 0.9057]},
        "attacks": {"pgd": figure(), "gauss": figure("noise", threat_model="box", accuracy=0.5, correct=5000)},
        "worst_case": {"L∞ 8/255": {"attacks": worst, **figure(accuracy=0.4, correct=4000)}},
    }
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results, "linf_8"))
    return [[cell.strip() for cell in line.split("│")] for line in console.export_text().splitlines() if "│" in line]


def test_a_row_for_clean_images_and_each_attack():
    rows = text(["pgd"])
    assert rows[0][1:6] == ["clean", "90.0 %", "89.4 to 90.6", "9,000 of 10,000", ""]
    assert rows[1][1:7] == [
        "pgd, L∞ 8/255",
        "at most 43.3 %",
        "42.3 to 44.2",
        "4,327 of 10,000",
        "12,345 / 678",
        "9.9",
    ]
    # Noise is measured, not searched for: it is no upper bound of anything.
    assert rows[2][1:3] == ["gauss (noise)", "50.0 %"]
    assert len(rows) == 3  # one attack is its own worst case


def test_shares_of_a_random_network_have_one_decimal():
    share = {"accuracy": 0.43271, "correct": 4327.149999, "n": 10_000, "interval_95": [0.42, 0.44]}
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table({"clean": share, "attacks": {}, "worst_case": {}}, "noise"))
    assert "4,327.1 of 10,000" in console.export_text()


def test_a_row_for_the_worst_case_of_several():
    rows = text(["pgd", "fgsm"])
    assert rows[-1][1:5] == ["worst case, L∞ 8/255", "at most 40.0 %", "42.3 to 44.2", "4,000 of 10,000"]
