"""Tunes a small neural network that reads handwritten digits.

``scripts/run-optuna-spark.sh`` runs this when told nothing else. For your own study, copy this
file, change the objective, and run ``scripts/run-optuna-spark.sh yours.py:objective``.
"""

import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

DIRECTION = "maximize"  # what the objective returns is an accuracy
EPOCHS = 25

# Read once, here on the driver: data that an objective uses is sent along with it, once for a
# run and not for each trial. Data too large for that is better read inside the objective.
X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = train_test_split(
    *load_digits(return_X_y=True), test_size=0.5, random_state=0
)


def objective(trial: optuna.Trial) -> float:
    """Accuracy on digits that the network has not seen, after the last epoch."""
    n_layers = trial.suggest_int("n_layers", 1, 3)
    model = MLPClassifier(
        hidden_layer_sizes=[
            # The second layer's size exists only in trials that have a second layer.
            trial.suggest_int(f"units_{layer}", 16, 128, log=True)
            for layer in range(n_layers)
        ],
        activation=trial.suggest_categorical("activation", ["relu", "tanh", "logistic"]),
        learning_rate_init=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        alpha=trial.suggest_float("alpha", 1e-6, 10.0, log=True),
        batch_size=trial.suggest_int("batch_size", 16, 256, log=True),
        random_state=0,
    )
    with threadpool_limits(1):  # one trial has one slot: parallelism comes from other trials
        for epoch in range(EPOCHS):
            model.partial_fit(X_TRAIN, Y_TRAIN, classes=range(10))
            accuracy = model.score(X_TEST, Y_TEST)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
    return accuracy


if __name__ == "__main__":
    import optuna_spark

    study = optuna_spark.create_study(direction=DIRECTION)
    study.optimize(objective, n_trials=40, show_progress_bar=True)
    print(f"Best accuracy {study.best_value:.1%} with {study.best_params}")
