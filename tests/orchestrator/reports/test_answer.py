"""The answer at the top of a report: sentences that follow from the numbers."""

from __future__ import annotations

import json

import pytest

from orchestrator.reports.answer import ALSO, FOUND, MIND, NAMES, NEXT, OVERTURN
from orchestrator.reports.lock import Recipe
from orchestrator.reports.tables import build_report, first_screen

GAMMA = "loss.focal_gamma"
BASELINE = {GAMMA: 0.0}


@pytest.fixture
def answer(stored):
    """Make the report against gamma 0, and return its answer."""

    def of(**named):
        return build_report(stored(), Recipe("t", **{"baseline": BASELINE} | named)).answer

    return of


@pytest.fixture
def add_pairs(add):
    """Add trials of gamma 0 and of another one that differs by so much image AUROC per seed."""

    known = set()

    def of(*differences, gamma=2.0):
        for seed, difference in enumerate(differences):
            own = 0.7 + seed / 1000
            if seed not in known:
                known.add(seed)
                add({GAMMA: 0.0}, seed, image=(own, own))
            add({GAMMA: gamma}, seed, image=(own + difference, own + difference))

    return of


def test_a_variant_that_wins_is_named_with_difference_interval_and_verdict(answer, add_pairs):
    add_pairs(0.05, 0.052, 0.051)
    of = answer()
    assert of.part(FOUND).startswith(
        "`focal_gamma=2` is better than the baseline `focal_gamma=0`: mean image AUROC 0.7520 against 0.7010, a difference "
        "of +0.0510 (95% interval +0.0485 to +0.0535 over 3 seeds)."
    )
    assert of.part(NEXT) == (
        "Try `focal_gamma=2` on new images before you rely on it; more seeds would hardly change its verdict."
    )


def test_a_win_by_a_hair_says_so(answer, add_pairs):
    add_pairs(0.04, 0.06, 0.08)  # t interval: 0.06 plus and minus 4.303 * 0.02 / sqrt(3)
    of = answer()
    assert "is better than the baseline" in of.part(FOUND)
    assert of.part(OVERTURN).startswith("The interval comes within 0.0103 of zero, with 3 seeds.")


def test_a_variant_that_loses_leaves_the_baseline(answer, add_pairs):
    add_pairs(-0.05, -0.052, -0.051)
    of = answer()
    assert of.part(FOUND).startswith(
        "`focal_gamma=2` is worse than the baseline `focal_gamma=0`: mean image AUROC 0.6500"
    )
    assert of.part(NEXT) == "Keep `focal_gamma=0`; this verdict needs no more seeds."


def test_of_several_losers_the_nearest_is_named_and_all_are_counted(answer, add_pairs):
    add_pairs(-0.05, -0.052, -0.051)
    add_pairs(-0.15, -0.152, -0.151, gamma=4.0)
    of = answer()
    found = of.part(FOUND)
    assert found.startswith("Every variant is worse than the baseline `focal_gamma=0`. The nearest is `focal_gamma=2`:")
    assert "The verdict of all 2 variants: worse." in of.part(ALSO)
    assert "corrected for 2 comparisons" in found


def test_an_undecided_sweep_says_how_many_seeds_would_decide(answer, add_pairs):
    add_pairs(0.09, -0.01, 0.04, 0.05)
    of = answer()
    assert of.part(FOUND).startswith(
        "Undecided: `focal_gamma=2` has the highest mean image AUROC, 0.7440 against 0.7015"
    )
    assert of.part(NEXT).startswith(
        "6 more seeds should be enough to decide about `focal_gamma=2`, if they spread as these do: set "
    )


def test_a_decided_variant_comes_before_a_higher_mean_that_is_undecided(answer, add_pairs):
    add_pairs(0.15, -0.01, 0.04)
    add_pairs(0.03, 0.031, 0.032, gamma=4.0)
    of = answer()
    assert of.part(FOUND).startswith("`focal_gamma=4` is better than the baseline `focal_gamma=0`: mean image AUROC")
    assert (
        "The mean of `focal_gamma=2` is higher still, but undecided: a difference of +0.0600 (95% interval"
        in of.part(FOUND)
    )
    assert "more seeds should be enough to decide about `focal_gamma=2`, if they spread" in of.part(NEXT)


def test_versions_are_explained_by_the_first_sentence_of_their_files(answer, add):
    for seed in range(3):
        for version, gain in (("v3", 0.0), ("v7", 0.1), ("v1", -0.1)):
            add({"version": version}, seed, image=(0.7 + gain, 0.7 + gain + seed / 1000))
    names = answer(baseline={"version": "v3"}).part(NAMES)
    assert names == (
        "`v3`: v2 with a FiLM adapter on every task. `v7`: v3 with the focal NLL, gamma 2, in the notes' joint form."
    )


def test_a_win_that_other_images_could_undo_says_so_in_its_headline(answer, add, make_images):
    for seed in range(8):
        labels, scores = make_images([1.0], seed=seed, n=16)[0]
        # It helps some of the same few images a lot, and harms others a little less, in every seed.
        moved = [
            score + label * (1.8 if n % 4 == 1 else -0.3)
            for n, (label, score) in enumerate(zip(labels, scores, strict=True))
        ]
        add({GAMMA: 0.0}, seed, images=[(labels, scores)] * 2)
        add({GAMMA: 2.0}, seed, images=[(labels, moved)] * 2)
    found = answer().part(FOUND)
    assert "is better than the baseline" in found
    assert "That holds over seeds; over other test images it is open (" in found


def test_equal_differences_have_no_interval(answer, add_pairs):
    add_pairs(0.05, 0.05, 0.05)
    assert "+0.0500 (the same for each of 3 seeds, so the interval has no width)" in answer().part(FOUND)


def test_one_seed_decides_nothing(answer, add_pairs):
    add_pairs(0.05)
    of = answer()
    assert "a difference of +0.0500 (1 seed, so no interval over seeds)." in of.part(FOUND)
    assert of.part(FOUND).startswith("Undecided: ")
    assert of.part(NEXT).startswith("At least 2 more seeds are needed to decide about `focal_gamma=2`: set `seeds: 3`")


def test_a_sweep_that_failed_has_no_answer_and_names_the_command(add, answer):
    for seed in (0, 1):
        add({GAMMA: 2.0}, seed, status="failed", error_kind="RuntimeError", error="out of memory")
    of = answer()
    assert of.part(FOUND).startswith("No answer: no trial is finished. 2 of 2 trials not in the tables: 2 failed.")
    assert "out of memory" in of.part(FOUND)
    assert "moleflow-sweep retry FOLDER" in of.part(NEXT)


def test_trials_that_failed_next_to_an_answer_come_first_in_what_to_do(add, answer, add_pairs):
    add_pairs(0.05, 0.052, 0.051)
    add({GAMMA: 4.0}, status="failed", error="out of memory")
    of = answer()
    assert of.part(FOUND).startswith("`focal_gamma=2` is better")
    assert of.part(NEXT).startswith("`moleflow-sweep logs FOLDER` shows the errors")


def test_a_search_says_by_which_images_it_chose_and_which_key_has_its_seeds(answer, add_pairs):
    add_pairs(0.09, -0.01, 0.04, 0.05)
    of = answer(is_search=True)
    assert of.part(OVERTURN).startswith("The search chose by validation images and tested only its finalists")
    assert "set `search.final_seeds: 10`" in of.part(NEXT)


def test_a_search_that_tested_nothing_says_so(stored, add):
    add({GAMMA: 2.0}, split="validation")
    of = build_report(stored(), Recipe("t", (), is_search=True)).answer
    assert of.part(FOUND) == (
        "No answer on test images: 1 configuration judged on validation images alone, and no test image was "
        "opened after the scan of the data folder."
    )


def test_without_a_baseline_the_ranking_is_given_and_no_difference(stored, add):
    for gamma, image in ((0.0, 0.7), (2.0, 0.8)):
        add({GAMMA: gamma}, image=(image, image))
    of = build_report(stored(), Recipe("t")).answer
    assert of.part(FOUND) == (
        "Highest mean image AUROC: `focal_gamma=2` 0.8000, then `focal_gamma=0` 0.7000 (1 seed). No difference is tested."
    )
    assert "`report: baseline:`" in of.part(NEXT)


def test_equal_digests_are_identical(answer, add):
    for seed in range(3):
        for gamma in (0.0, 2.0):
            add({GAMMA: gamma}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
    of = answer()
    assert "identical to the baseline `focal_gamma=0`: equal scores, bit by bit" in of.part(FOUND)
    assert of.part(FOUND).endswith("; they differ in `loss.focal_gamma`, and were trained to equal digits.")
    assert of.part(NEXT).startswith("Compare settings that reach the scores")
    assert "1 group of identical variants" in of.part(MIND)


@pytest.mark.parametrize("worse", [0.01, 0.05])
def test_an_identical_variant_does_not_lead_where_another_differs(answer, add, worse):
    gamma0 = {GAMMA: 0.0}
    for seed in range(6):
        equal = {"state_digest": f"s{seed}", "scores_digest": f"x{seed}", "image": (0.7, 0.7)}
        add({"version": "v3"} | gamma0, seed, **equal)
        add({"version": "v7"} | gamma0, seed, **equal)
        lower = 0.7 - worse + (seed - 2.5) / 50
        add({"version": "v7", GAMMA: 2.0}, seed, image=(lower, lower))
    of = answer(baseline={"version": "v3"})
    base, other = "`version=v3, focal_gamma=0`", "`version=v7, focal_gamma=2`"
    verdict = {0.01: f"{other} differs from the baseline {base} by less than", 0.05: f"{other} is worse than"}[worse]
    assert of.part(FOUND).startswith(verdict)
    same = f"`version=v7, focal_gamma=0` is identical to {base}: their settings are equal but for the version's name."
    assert same in of.part(ALSO)
    assert of.part(NEXT).startswith("Keep `version=v3, focal_gamma=0`")


def test_where_all_are_identical_the_answer_says_why_and_names_what_differs(answer, add):
    for gamma, form in ((0.0, "joint"), (1.0, "joint"), (2.0, "joint")):
        for seed in range(3):
            settings = {"loss.focal_form": form}
            add({GAMMA: gamma}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}", settings=settings)
    of = answer()
    assert of.part(FOUND).startswith("No variant differs from its baseline: `focal_gamma=1` is identical")
    why = "with `loss.focal_form: joint`, the focal weight is 1 to the last bit while every patch's NLL is above 17"
    assert why in of.part(FOUND)
    assert f"`focal_gamma=2` is identical to `focal_gamma=0`: {why}" in of.part(ALSO)


@pytest.mark.parametrize(
    ("gammas", "also", "why"),
    [
        ((0.0, 0.0), {"loss.focal_form": "relative"}, "without `loss.focal_gamma`, `loss.focal_form` has no effect"),
        ((0.0, 2.0), {"loss.focal_form": "relative"}, "they differ in `loss.focal_form`, `loss.focal_gamma`, and were"),
        ((0.0, 0.0), {"lora.rank": 9}, "they differ in `lora.rank`, and were trained to equal digits"),
    ],
)
def test_the_settings_that_differ_between_identical_variants_are_named(answer, add, gammas, also, why):
    for gamma, more in zip(gammas, ({"loss.focal_form": "joint", "lora.rank": 8}, also), strict=True):
        factors = {GAMMA: gamma} | {"loss.focal_form": "joint", "lora.rank": 8} | more
        for seed in range(3):
            add(factors, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
    of = answer(baseline={GAMMA: 0.0, "loss.focal_form": "joint", "lora.rank": 8})
    assert why in of.part(FOUND)


def test_equal_scores_of_other_training_are_not_called_equal_training(answer, add):
    for seed in range(3):
        for gamma in (0.0, 2.0):
            add({GAMMA: gamma}, seed, state_digest=f"s{seed} {gamma}", scores_digest=f"x{seed}")
    assert answer().part(FOUND).endswith("; they differ in `loss.focal_gamma`, and give equal scores.")


def test_classes_that_go_the_other_way_speak_against_the_mean(answer, add):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, image=(0.70, 0.70 + seed / 1000))
        add({GAMMA: 2.0}, seed, image=(0.69, 0.80 + seed / 1000))
    assert "1 of 2 classes go the other way: `leather` (-0.0100)." in answer().part(OVERTURN).replace("goes", "go")


def test_confounds_and_other_code_are_said_at_the_top(answer, add):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, image=(0.7, 0.7))
        add({GAMMA: 2.0}, seed, image=(0.8, 0.8 + seed / 1000), settings={"training.epochs": 9})
    of = answer(code="beef" * 16)
    assert "It also differs from its baseline in `training.epochs` (†)." in of.part(OVERTURN)
    assert "All 6 trials were made by other code than today's (stale), which may give other numbers." in of.part(MIND)
    assert "1 variant confounded (†: a setting differs that" in of.part(MIND)


def test_the_ranking_has_the_best_on_top_and_the_baseline_in_its_place(answer, add_pairs):
    add_pairs(0.05, 0.052, 0.051)
    add_pairs(-0.05, -0.052, -0.051, gamma=4.0)
    table = answer().table
    assert [(name, cells[0].text, cells[-1].text) for name, cells in table.rows] == [
        ("focal_gamma=2", "3", "better"),
        ("focal_gamma=0", "3", "baseline"),
        ("focal_gamma=4", "3", "worse"),
    ]
    assert [[cell.bold for cell in cells].count(True) for _, cells in table.rows] == [1, 0, 0]


def test_long_names_are_short_in_the_answer_and_explained_below(stored, add):
    also = {"training.learning_rate": 0.001, "lora.rank": 8, "loss.center_weight": 0.05, "training.epochs": 40}
    for seed in range(3):
        add({GAMMA: 0.0} | also, seed, image=(0.7, 0.7 + seed / 1000))
        add({GAMMA: 2.0} | {key: 2 * value for key, value in also.items()}, seed, image=(0.8, 0.8 + seed / 900))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0} | also, is_search=True))
    assert report.answer.part(FOUND).startswith("`finalist` is better than the baseline `base`:")
    assert "**Names:** `base` is rank=8, center_weight=0.05, focal_gamma=0, epochs=40," in report.markdown()
    assert "rank=8, center_weight=0.05, focal_gamma=0, epochs=40, learning_rate=0.001," in report.csv().replace('"', "")


def test_names_that_a_search_gave_are_taken_and_explained(stored, add):
    ids = {}
    for gamma in (0.0, 2.0, 4.0):
        for seed in range(3):
            add({GAMMA: gamma}, seed, image=(0.7, 0.7 + gamma / 10 + seed * gamma / 1000))
    for trial in stored().read("attempts", ["trial_id", "factors"]).to_pylist():
        ids.setdefault(json.loads(trial["factors"])[GAMMA], []).append(trial["trial_id"])
    names = {trial: name for gamma, name in ((0.0, "base"), (2.0, "2nd #3"), (4.0, "best #17")) for trial in ids[gamma]}
    report = build_report(stored(), Recipe("t", baseline=BASELINE, is_search=True, names=names))
    assert report.answer.part(FOUND).startswith("`best #17` is better than the baseline `base`:")
    assert report.tables[0].header == ("Metric", "base", "2nd #3", "best #17")
    assert report.answer.part(NAMES) == (
        "`base` is focal_gamma=0; `2nd #3` is focal_gamma=2; `best #17` is focal_gamma=4."
    )


def test_the_first_screen_is_the_answer_and_one_table(stored, add, add_pairs):
    add_pairs(0.05, 0.052, 0.051)
    shown = first_screen(build_report(stored(), Recipe("t", baseline=BASELINE)).body())
    assert shown.startswith("# t\n\n**Found:** `focal_gamma=2` is better")
    assert [line for line in shown.splitlines() if line.startswith("#")] == ["# t", "## Variants, the best first"]
    add({GAMMA: 0.0}, 7, status="failed")
    assert (
        first_screen(build_report(stored(), Recipe("t", ())).body())
        == "# t\n\n**Found:** No answer: no trial is finished.\n\n**Next:** Run the sweep; the same command continues.\n"
    )


def test_beside_a_difference_within_noise_the_undecided_variant_gets_its_seeds(answer, add_pairs):
    add_pairs(*(-0.0005, 0.0006) * 4)
    add_pairs(*(-0.16, 0.0, -0.1, 0.02) * 2, gamma=4.0)
    of = answer()
    assert of.part(FOUND).startswith(
        "`focal_gamma=2`, the best variant, differs from the baseline `focal_gamma=0` by less"
    )
    assert of.part(NEXT).startswith("Keep `focal_gamma=0` rather than `focal_gamma=2`: ")
    assert "decide about `focal_gamma=4`" in of.part(NEXT)


def test_a_nearest_variant_within_noise_is_not_called_the_best(answer, add_pairs):
    add_pairs(*(-0.0006, 0.0005) * 4)
    add_pairs(*(-0.05, -0.051) * 4, gamma=4.0)
    found = answer().part(FOUND)
    assert found.startswith(
        "No variant is above the baseline `focal_gamma=0`. The nearest, `focal_gamma=2`, differs by less"
    )


def test_not_every_variant_is_worse_where_one_is_undecided(answer, add_pairs):
    add_pairs(-0.05, -0.052, -0.051)
    add_pairs(-0.3, 0.01, -0.1, gamma=4.0)
    found = answer().part(FOUND)
    assert found.startswith(
        "No variant is above the baseline `focal_gamma=0`. The nearest is `focal_gamma=2`, and it is worse"
    )
