"""Score a folder of predictions: ``python src/eval_predictions.py pred=DIR data=nyud``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Score."""
    from mtmamba.data.roots import check_ids, check_root
    from mtmamba.places import require_predictions

    require_predictions(Path(cfg.pred).expanduser())  # before PyTorch is imported
    check_root(cfg)
    check_ids(cfg)

    from mtmamba.config.compose import with_choices
    from mtmamba.evaluation.folder import evaluate_predictions

    evaluate_predictions(with_choices(cfg), run_dir)


if __name__ == "__main__":
    command("eval_predictions", main)
