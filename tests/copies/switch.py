"""An estimator that does what it is told: one process can then measure many kinds."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_array


def use(array: Any) -> Any:
    """Do with an array what takes a moment, in which somebody may look at it."""
    time.sleep(0.02)
    return np.zeros(len(array)) + array[:, 0]


class Switch(BaseEstimator):
    """Does in fit and predict what its parameters name."""

    def __init__(self, fit: str = "nothing", predict: str = "nothing", estimator=None):  # type: ignore[no-untyped-def]
        # Methods and parameters may not have the same names.
        self.in_fit = fit
        self.in_predict = predict
        self.estimator = estimator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {
            "fit": self.in_fit,
            "predict": self.in_predict,
            "estimator": self.estimator,
        }

    def set_params(self, **parameters: Any) -> Switch:
        self.in_fit = parameters.get("fit", self.in_fit)
        self.in_predict = parameters.get("predict", self.in_predict)
        self.estimator = parameters.get("estimator", self.estimator)
        return self

    def fit(self, X: Any, y: Any = None) -> Switch:
        if self.estimator is not None:
            self.fitted_ = clone(self.estimator).fit(X, y)
        else:
            getattr(self, f"do_{self.in_fit}")(X)
        return self

    def predict(self, X: Any) -> Any:
        if self.estimator is not None:
            return self.fitted_.predict(X)
        result = getattr(self, f"do_{self.in_predict}")(X)
        return np.zeros(len(X)) if result is None else result

    def do_nothing(self, X: Any) -> None:
        self.mean_ = float(X[0, 0])

    def do_copy(self, X: Any) -> None:
        copy = X.copy()
        self.peak_ = use(copy)

    def do_kept_copy(self, X: Any) -> None:
        self.X_ = X.copy()

    def do_view(self, X: Any) -> None:
        self.parts_ = {"all": [X[1:]]}

    def do_views(self, X: Any) -> None:
        self.leaves_ = [{"center": X[i], "sum": X[i + 1 :]} for i in range(150)]

    def do_center(self, X: Any) -> None:
        centered = X - X.mean(axis=0)
        self.peak_ = use(centered)

    def do_scale(self, X: Any) -> None:
        scaled = X / np.arange(1, X.shape[1] + 1)
        self.peak_ = use(scaled)

    def do_square(self, X: Any) -> None:
        self.square_ = (X**2 + 1).sum()

    def do_rows(self, X: Any) -> None:
        rows = X[np.arange(0, len(X), 2)]
        self.sum_ = use(rows)

    def do_convert(self, X: Any) -> None:
        converted = check_array(X, dtype=np.float32)
        self.peak_ = use(converted)

    def do_reorder(self, X: Any) -> None:
        reordered = check_array(X, order="F")
        self.peak_ = use(reordered)

    def do_want_to_write(self, X: Any) -> None:
        self.sum_ = check_array(X, force_writeable=True).sum()

    def do_decompose(self, X: Any) -> None:
        self.r_ = np.linalg.qr(X, mode="r")

    def do_write_in_place(self, X: Any) -> None:
        X -= X.mean(axis=0)

    def do_vectors(self, X: Any) -> None:
        self.vectors_ = [np.ones(len(X)) for _ in range(60)]

    def do_square_matrix(self, X: Any) -> None:
        size = 40 * X.shape[1]
        self.matrix_ = np.ones((size, size))

    def do_buffer(self, X: Any) -> None:
        buffer = np.ones(1 << 20)
        for start in range(0, len(X), 1000):
            buffer[:1000] = X[start : start + 1000, 0].sum()

    def do_untouched(self, X: Any) -> None:
        self.space_ = np.empty_like(X)

    def do_native(self, X: Any) -> None:
        n_bytes = X.nbytes
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        address = libc.malloc(n_bytes)
        ctypes.memset(address, 1, n_bytes)
        time.sleep(0.05)
        libc.free(address)

    def do_native_vectors(self, X: Any) -> None:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        for _ in range(60):
            ctypes.memset(libc.malloc(8 * len(X)), 1, 8 * len(X))

    def do_thread(self, X: Any) -> None:
        thread = threading.Thread(target=self.do_copy, args=(X,))
        thread.start()
        thread.join()

    def do_print(self, X: Any) -> None:
        for _ in range(2000):
            sys.stdout.write("x" * 100)
            os.write(1, b"y" * 100)
            sys.stderr.write("z" * 100)

    def do_fail(self, X: Any) -> None:
        raise ValueError("this cannot be done")

    def do_exit(self, X: Any) -> None:
        sys.stderr.write("last words of the estimator\n")
        sys.stderr.flush()
        os._exit(3)

    def do_kill(self, X: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_hang(self, X: Any) -> None:
        time.sleep(600)

    def do_leave_child(self, X: Any) -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        self.pid_ = pid
        with open(os.environ["SKL_MMAP_TEST_FILE"], "w") as file:
            file.write(str(pid))

    def do_same(self, X: Any) -> Any:
        return X.copy()
