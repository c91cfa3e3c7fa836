"""A network in the ONNX format: rows in, answers out, by ONNX Runtime and without the library that trained it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from katmatic.errors import ModelError


class Network:
    """One loaded network with one input of shape (rows, columns). It keeps to one thread: answers come one by one."""

    def __init__(self, data: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(
                "a network",
                found="no ONNX Runtime to answer with",
                expected="it",
                do="install it: pip install 'katmatic[onnx]'",
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The network's last column for each row: the chance of class 1, or the value."""
        (found,) = self._session.run(None, {self._input: x.astype(np.float32)})
        return np.asarray(found, np.float64).reshape(len(x), -1)[:, -1]
