from typing import Any

import numpy as np
import pytest

from stageline.client.tensors import to_wire
from stageline.errors import InvalidInputError


@pytest.mark.parametrize("inputs", [None, np.zeros((1, 2)), [("x", np.zeros((1, 2)))]])
def test_inputs_that_are_no_mapping_are_named(inputs: Any) -> None:
    with pytest.raises(InvalidInputError, match="mapping of names to arrays"):
        to_wire(inputs)
