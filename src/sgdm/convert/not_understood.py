"""What stands in the way of reading a model, before it is known which file says so."""

__all__ = ["NotUnderstood"]


class NotUnderstood(Exception):  # noqa: N818 - becomes a FileError with its file and place
    """What is not as it has to be, and what to do."""

    def __init__(self, problem: str, remedy: str = "take an intact copy") -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy
