"""Scalars and images in TensorBoard's format. Its own writer works in a thread whose errors are lost; this one just appends."""

import io
import os
import socket
import time
from pathlib import Path

from common.files import append_bytes


class Events:
    """One file of events in `folder`, made at the first call of `add`; it supersedes what earlier files say from
    `first_step` on. UserError, with the file as it was before, if it cannot be written."""

    def __init__(self, folder, first_step: int):
        self.path = Path(folder) / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.first_step = first_step

    def add(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._append(
            step, Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        )

    def add_image(self, step: int, name: str, png: bytes, width: int, height: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._append(step, Summary(value=[Summary.Value(tag=name, image=image)]))

    def _append(self, step: int, summary) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now, events = time.time(), []
        if not self.path.exists():
            events += [
                Event(wall_time=now, file_version="brain.Event:2"),
                Event(wall_time=now, step=self.first_step, session_log=SessionLog(status=SessionLog.START)),
            ]
        append_bytes(self.path, _records([*events, Event(wall_time=now, step=step, summary=summary)]))


def _records(events) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()
