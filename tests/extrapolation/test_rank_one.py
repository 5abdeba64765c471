"""AlphaOPD's prediction on updates whose future is known."""

import pytest
import torch

from effopd.extrapolation.rank_one import predicted_update


def test_updates_that_grow_along_one_direction_with_the_score_are_continued_to_the_target() -> None:
    # The update is c u vᵀ and the score 0.4 + c / 10, so a score of 0.9 is reached at c = 5.
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, generator=generator), torch.randn(4, generator=generator)
    sizes = (1.0, 2.0, 3.0)
    predicted = predicted_update(
        [size * torch.outer(left, right) for size in sizes], [0.4 + size / 10 for size in sizes], target=0.9
    )
    torch.testing.assert_close(predicted, 5 * torch.outer(left, right))


def test_a_direction_that_turns_as_the_score_rises_goes_on_turning() -> None:
    # The left vectors are (1, 0), (1, 1), (1, 2) at scores 0, 1, 2. At 3 they continue to (1, 3); v is the same throughout.
    right = torch.tensor([0.6, 0.8])
    updates = [torch.outer(torch.tensor([1.0, height]), right) for height in (0.0, 1.0, 2.0)]
    predicted = predicted_update(updates, [0.0, 1.0, 2.0], target=3.0)
    torch.testing.assert_close(predicted, torch.outer(torch.tensor([1.0, 3.0]), right))


def test_what_has_rank_two_is_reduced_to_its_leading_part() -> None:
    updates = [torch.diag(torch.tensor([size, 0.1])) for size in (1.0, 2.0)]
    torch.testing.assert_close(predicted_update(updates, [0.1, 0.2], target=0.4), torch.diag(torch.tensor([4.0, 0.0])))


@pytest.mark.parametrize(
    ("num_updates", "scores", "words"),
    [
        (1, [0.5], "a line needs two"),
        (2, [0.5, 0.5], "no line goes through them"),
        (2, [0.5], "2 updates and 1 scores"),
    ],
)
def test_without_a_line_there_is_no_prediction(num_updates: int, scores: list[float], words: str) -> None:
    updates = [float(1 + number) * torch.eye(2)[:1] for number in range(num_updates)]
    with pytest.raises(ValueError, match=words):
        predicted_update(updates, scores, target=1.0)
