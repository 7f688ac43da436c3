"""The file of a form that a browser sends (multipart/form-data, RFC 7578)."""

from __future__ import annotations

import email.message
import email.parser

from reidx.errors import DataError


def uploaded_file(content_type: str, body: bytes, field: str) -> bytes:
    """Return the content of the form's file ``field``; raises :class:`DataError` if the form has none, or an empty one."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    form = email.parser.BytesParser().parsebytes(head + body)
    parts = form.get_payload() if form.get_content_type() == "multipart/form-data" and form.is_multipart() else []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, email.message.Message) and part.get_param("name", header="content-disposition") == field:
            content = part.get_payload(decode=True)
            if isinstance(content, bytes) and content:
                return content
            raise DataError("No file was chosen. Choose an image first.")
    raise DataError("The form holds no image.")
