"""The plan as text, what it costs, and which arms a command means."""

from __future__ import annotations

from pathlib import Path

from options.schema import OptionError
from scripts.reproducing import plan
from scripts.reproducing.plan import ARMS, OUTCOMES, QUESTIONS, SUITES, Arm, Budget

CHOICE = "choice.json"  # below --out: what the screen chose


def arms_of(wanted: str, stage: str, out: Path) -> tuple[str, ...]:
    """The arms that --arms means, CUT first, which all others are compared with.

    Raises:
        OptionError: an arm that there is not, a confirmation of nothing in particular.
    """
    wanted = wanted.strip()
    if not wanted and stage == "confirm":
        wanted = ",".join((plan.BASELINE, plan.DEFAULT, chosen_in(out)))
    if wanted in ("", "all"):
        return tuple(ARMS)
    if wanted == "short":
        return plan.SHORT
    names = tuple(dict.fromkeys(name for word in wanted.split(",") if (name := word.strip())))
    for name in names or (wanted,):
        if name not in ARMS:
            raise OptionError(f"--arms {name}: choose of all, short, {', '.join(ARMS)}")
    return (plan.BASELINE, *(name for name in names if name != plan.BASELINE))


def chosen_in(out: Path) -> str:
    """The arm that the screens below a folder chose; its report says how.

    Raises:
        OptionError: nothing has been screened there, or no arm was chosen.
    """
    from util.strict_json import read_json  # a report wrote it

    file = out / CHOICE
    if not file.is_file():
        raise OptionError(
            f"--stage confirm: {file} is missing: nothing was screened, or no arm was chosen; "
            "run --stage screen first, or name --arms"
        )
    return str(read_json(file)["arm"])


def minutes_of(arm: Arm, budget: Budget) -> float:
    """Of a run of an arm with its evaluation, on one core, estimated from a measured step of CUTCAM."""
    return (budget.iterations * arm.iterations * budget.step_seconds * arm.cost + budget.other_seconds) / 60


def describe(budget: Budget) -> str:
    """The plan: questions, arms, suites, outcomes, tests, and the total of runs, steps and hours."""
    lines = ["Questions", *(f"  {number}. {text}" for number, text in QUESTIONS.items()), "", "Suites"]
    lines += [f"  {name:20} {suite.title}" for name, suite in SUITES.items()]
    lines += ["", f"Arms (flags of train.py); short: {', '.join(plan.SHORT)}"]
    lines += [f"  {name:24} {_arm(name, arm)}" for name, arm in ARMS.items()]
    lines += ["", "Outcomes"]
    lines += [f"  {item.metric:20} {item.better:7} {item.role:8} {item.what}" for item in OUTCOMES]
    lines += ["", f"Tests: {plan.TESTS}.", f"Verdict: {plan.VERDICT}.", f"Choice: {plan.CHOICE}.", "", _cost(budget)]
    return "\n".join(lines)


def _arm(name: str, arm: Arm) -> str:
    against = "" if name == plan.BASELINE else f", against {arm.against}"
    return f"{arm.flags}  [question {', '.join(map(str, arm.questions))}{against}]"


def _cost(budget: Budget) -> str:
    suites = len(SUITES)
    seeds = len(plan.SCREEN_SEEDS)
    screen = sum(minutes_of(arm, budget) for arm in ARMS.values()) * seeds
    short = sum(minutes_of(ARMS[name], budget) for name in plan.SHORT) * seeds
    confirm = 3 * 6 * minutes_of(ARMS[plan.DEFAULT], budget)
    runs = (len(ARMS) * seeds, len(plan.SHORT) * seeds, 18)
    minutes = (screen, short, confirm)
    # In budgets: arms for equal seconds have steps of their own.
    lengths = (sum(arm.iterations for arm in ARMS.values()) * seeds, runs[1], runs[2])
    lines = [f"A run: {budget.iterations} steps of {budget.batch} images, {budget.size} px, ngf {budget.ngf}."]
    stages = ("screen", "screen of the short list", "confirm, 3 arms and 6 seeds")
    for what, count, length, spent in zip(stages, runs, lengths, minutes, strict=True):
        lines.append(
            f"{what}: {count} runs and {length * budget.iterations:,.0f} steps a suite, about {spent:.0f} minutes on "
            f"one core; {spent * suites / 60:.1f} hours for all {suites} suites"
        )
    return "\n".join(lines)
