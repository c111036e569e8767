"""List what can be named in a run file, or describe one of it."""

from __future__ import annotations

import argparse

from vlkit.cli.terminal import say
from vlkit.config.build import describe
from vlkit.config.cards import dataset_card_config, list_cards, list_dataset_cards, model_card_config
from vlkit.config.load import to_yaml
from vlkit.errors import VlkitError, did_you_mean
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS, load_plugin

REGISTRIES = {"models": MODELS, "datasets": DATASETS, "processors": PROCESSORS, "tasks": TASKS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to show."""
    parser.add_argument("what", choices=[*REGISTRIES, "cards"])
    parser.add_argument("name", nargs="?", help="one of them; for cards MODEL or MODEL/TYPE")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load this plugin first")


def run(args: argparse.Namespace) -> int:
    """Print names or a description."""
    for file in args.plugin:
        load_plugin(file)
    if args.what == "cards":
        say(_card(args.name) if args.name else "\n".join(_all_cards()))
    elif args.what == "datasets" and args.name in list_dataset_cards():
        say(to_yaml(dataset_card_config(args.name)).rstrip())
        if args.name in DATASETS:  # a class that has the name of the card
            say(describe(DATASETS, args.name))
    elif args.name:
        say(describe(REGISTRIES[args.what], args.name))
        types = list_cards().get(args.name, []) if args.what == "models" else []
        if types:
            say(f"cards (type): {', '.join(types)}")
    else:
        extra = list_dataset_cards() if args.what == "datasets" else []
        say("\n".join(sorted({*REGISTRIES[args.what].names(), *extra})))
    return 0


def _all_cards() -> list[str]:
    return [f"{model}/{type}" for model, types in list_cards().items() for type in types]


def _card(name: str) -> str:
    model, _, type = name.partition("/")
    known = list_cards()
    if model not in known:
        raise VlkitError(
            f"no model with cards is named {model!r}.{did_you_mean(model, known)} Known: {', '.join(known)}."
        )
    if type:
        return to_yaml(model_card_config(model, type)).rstrip()
    return "\n".join(f"{model}/{type}" for type in known[model])
