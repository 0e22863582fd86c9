"""scikit-learn: a grid search over networks, and its best one as an ONNX file."""

import sys

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split

from fastbn.sklearn import FastBNClassifier

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 30

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

search = GridSearchCV(
    FastBNClassifier(epochs=EPOCHS, random_state=0),
    {"hidden": [(32,), (128, 64)], "weight_decay": [1e-2, 1e-1]},
    cv=3,
    n_jobs=2,
)
search.fit(X_train, y_train)
print(search.best_params_)
print(f"test accuracy {search.score(X_test, y_test):.3f}")

report = search.best_estimator_.to_onnx("breast_cancer.onnx")
print(f"{report.path}: {report.bn_before} BatchNorms, {report.bn_after} left")
