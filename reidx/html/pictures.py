"""Images as data URIs, for a page without external files."""

from __future__ import annotations

import base64
import io

from reidx.data.decode import decode

HEIGHT = 144
"""Height of a picture in pixels."""
QUALITY = 72


def picture(address: str, height: int = HEIGHT) -> str:
    """Decode an image and return it as the data URI of a JPEG of this height; raises as :func:`decode` does."""
    image = decode(address)
    width = max(1, round(image.width * height / image.height))
    content = io.BytesIO()
    image.resize((width, height)).save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
