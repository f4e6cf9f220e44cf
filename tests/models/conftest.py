import pytest
import torch


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(27, (2, 4, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def actions() -> torch.Tensor:
    return torch.randint(4, (2, 3), generator=torch.Generator().manual_seed(0))
