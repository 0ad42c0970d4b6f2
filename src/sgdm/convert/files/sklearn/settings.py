"""Whether scikit-learn goes on from a checkpoint as is meant, with the settings of a template."""

from sgdm.convert.checkpoint import Checkpoint, check_rule
from sgdm.convert.files.sklearn.network import Network

__all__ = ["check_settings"]

# Of a checkpoint, and of scikit-learn's SGDOptimizer.
_OPTIMIZER = {"lr": "learning_rate", "momentum": "momentum", "nesterov": "nesterov"}


def check_settings(network: Network, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint of another rule, or of other settings than the template's.

    Raises:
        FileError: If it is.
    """
    check_rule(network.path, checkpoint, "sklearn")
    _check_not_held(network, checkpoint)
    _check_estimator(network, checkpoint)
    asked, its = checkpoint.hyperparameters, network.hyperparameters
    for name, attribute in _OPTIMIZER.items():
        if name in asked and name in its and asked[name] != its[name]:
            raise network.broken(
                "_optimizer",
                f"its {attribute} is {its[name]}, the checkpoint's {name} {asked[name]}",
                f"set _optimizer.{attribute} of the estimator to {asked[name]} and pickle it again",
            )


def _check_not_held(network: Network, checkpoint: Checkpoint) -> None:
    """Refuse hyperparameters that scikit-learn does not have."""
    asked = checkpoint.hyperparameters
    if asked.get("weight_decay"):
        raise network.broken(
            "alpha",
            f"the checkpoint has weight_decay={asked['weight_decay']}, and scikit-learn decays the "
            "coefs_ alone, by alpha divided by the examples of each batch",
            "give weight_decay=0, and set alpha of the template to what the run is to have",
        )
    for slot in checkpoint.slots:
        for name, own in slot.own.items():
            common = asked.get(name, 0.0)
            if own not in (None, common):
                raise network.broken(
                    slot.name,
                    f"the checkpoint has {name}={own} for it, and {common} for others",
                    "convert a run with the same for all, which is what scikit-learn has",
                )


def _check_estimator(network: Network, checkpoint: Checkpoint) -> None:
    """Refuse a template that sets the next steps by what it has seen itself."""
    if network.schedule == "invscaling":
        raise network.broken(
            "learning_rate",
            "its schedule, 'invscaling', goes on from the learning_rate_init and t_ of the "
            "template, not from the checkpoint's lr",
            "set learning_rate='constant' of the estimator and pickle it again",
        )
    if network.early_stopping and any(slot.buffer is not None for slot in checkpoint.slots):
        raise network.broken(
            "early_stopping",
            "it is True, with which only fit goes on, from new velocities",
            "set early_stopping=False of the estimator and pickle it again",
        )
