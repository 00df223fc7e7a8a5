"""One image and what is known of it."""

from dataclasses import dataclass
from pathlib import Path

JUNK = -1
"""Identity of a detection that is nobody (Market-1501): the protocols take it out of the gallery."""
DISTRACTOR = 0
"""Identity of people who are in no query (Market-1501): they stay in the gallery and are never trained on."""
UNKNOWN = ""
"""Identity of an image of which nothing but the pixels is known."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file.

    Attributes:
        path: The file.
        identity: Who is seen. A number where the layout numbers people (then `JUNK` and `DISTRACTOR` are not
            people), else the name that the layout uses; `UNKNOWN` where nothing tells.
        camera: Number of the camera, 0 where the layout does not tell.
        modality: `visible` or `thermal`.
        track: Name of the track that the image is a frame of, if any.
        moment: Name of what synchronised cameras took of one person at one time: its images share it. None where
            nothing tells.
        scene: Name of the frame of one camera that the image was cut out of, in which nobody is twice. None where
            nothing tells.
        room: Number of the first of the cameras that look at one room, where the data set says so. None where the
            camera is alone.
    """

    path: Path
    identity: int | str
    camera: int
    modality: str = "visible"
    track: str | None = None
    moment: str | None = None
    scene: str | None = None
    room: int | None = None

    @property
    def place(self) -> int:
        """What two images of a person must differ in where protocols ask for another camera: its room or itself."""
        return self.camera if self.room is None else self.room

    @property
    def is_person(self) -> bool:
        """Whether the identity is a known person, that is, can be trained on."""
        return self.identity not in (JUNK, DISTRACTOR, UNKNOWN)
