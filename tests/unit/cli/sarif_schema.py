"""The part of the SARIF 2.1.0 schema that the output of `scan --sarif` can touch.

Written by hand from the OASIS specification (sections 3.13 to 3.58 as cited), because
the tests use no network: every object used is closed (`additionalProperties: false`
with all properties the specification gives it that we might write), every enumeration
is complete, every required property is required.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_INDEX = {"type": "integer", "minimum": -1}
_COUNT = {"type": "integer", "minimum": 0}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**properties, "properties": {"type": "object"}},
        "required": list(required),
    }


def listed(items: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


MESSAGE = {  # 3.11: text or an id
    **closed(
        {"text": _TEXT, "markdown": _TEXT, "id": _TEXT, "arguments": listed(_TEXT)}
    ),
    "anyOf": [{"required": ["text"]}, {"required": ["id"]}],
}
MULTIFORMAT = closed({"text": _TEXT, "markdown": _TEXT}, "text")  # 3.12
ARTIFACT_LOCATION = closed(  # 3.4
    {
        "uri": {"type": "string", "format": "uri-reference"},
        "uriBaseId": _TEXT,
        "index": _INDEX,
        "description": MESSAGE,
    }
)
REGION = closed(  # 3.30
    {
        "startLine": {"type": "integer", "minimum": 1},
        "byteOffset": _INDEX,
        "byteLength": _COUNT,
        "charOffset": _INDEX,
    }
)
LOCATION = closed(  # 3.28
    {
        "id": _INDEX,
        "physicalLocation": closed(  # 3.29
            {"artifactLocation": ARTIFACT_LOCATION, "region": REGION}
        ),
        "logicalLocations": listed(  # 3.33
            closed(
                {
                    "name": _TEXT,
                    "index": _INDEX,
                    "fullyQualifiedName": _TEXT,
                    "decoratedName": _TEXT,
                    "kind": _TEXT,
                }
            )
        ),
        "message": MESSAGE,
    }
)
RULE = closed(  # 3.49
    {
        "id": _TEXT,
        "name": _TEXT,
        "shortDescription": MULTIFORMAT,
        "fullDescription": MULTIFORMAT,
        "help": MULTIFORMAT,
        "helpUri": {"type": "string", "format": "uri"},
    },
    "id",
)
DRIVER = closed(  # 3.19
    {
        "name": _TEXT,
        "version": _TEXT,
        "semanticVersion": _TEXT,
        "informationUri": {"type": "string", "format": "uri"},
        "rules": {**listed(RULE), "uniqueItems": True},
    },
    "name",
)
RESULT = closed(  # 3.27
    {
        "ruleId": _TEXT,
        "ruleIndex": _INDEX,
        "kind": {
            "enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]
        },
        "level": _LEVEL,
        "message": MESSAGE,
        "locations": listed(LOCATION),
    },
    "message",
)
NOTIFICATION = closed(  # 3.58
    {"level": _LEVEL, "message": MESSAGE, "locations": listed(LOCATION)}, "message"
)
INVOCATION = closed(  # 3.20
    {
        "executionSuccessful": {"type": "boolean"},
        "exitCode": {"type": "integer"},
        "toolExecutionNotifications": listed(NOTIFICATION),
    },
    "executionSuccessful",
)
RUN = closed(  # 3.14
    {
        "tool": closed({"driver": DRIVER}, "driver"),
        "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
        "invocations": listed(INVOCATION),
        "results": listed(RESULT),
    },
    "tool",
)
SCHEMA: dict[str, Any] = closed(  # 3.13
    {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": listed(RUN),
    },
    "version",
    "runs",
)
