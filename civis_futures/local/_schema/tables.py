"""The fields of every body that the API accepts, from the official spec, with their defaults.

Data only. What a table cannot say (a param that is required and has a default, ...) is in the
room that uses it.
"""

from __future__ import annotations

from .fields import Field, Table

LEVELS = ("unknown", "fatal", "error", "warn", "info", "debug")
OUTPUT_TYPES = ("File", "Table", "Report", "Project", "Credential", "JSONValue")
PARAM_TYPES = (
    "string",
    "multi_line_string",
    "integer",
    "float",
    "bool",
    "file",
    "table",
    "database",
    "credential_aws",
    "credential_redshift",
    "credential_custom",
)
# Names that the Platform sets itself or that would break the command (help centre).
RESERVED_NAMES = frozenset(
    (
        "PATH",
        "HOME",
        "HOSTNAME",
        "PWD",
        "CIVIS_API_KEY",
        "DATABASE",
        "RUNNER_USER",
        "RUNNER_USER_ID",
    )
)

SCHEDULE: Table = {
    "scheduled": Field("bool"),
    "scheduledDays": Field("integers", []),
    "scheduledHours": Field("integers", []),
    "scheduledMinutes": Field("integers", []),
    "scheduledRunsPerHour": Field("integer"),
    "scheduledDaysOfMonth": Field("integers", []),
}
NOTIFICATIONS: Table = {
    "urls": Field("texts", []),
    "successEmailSubject": Field("text"),
    "successEmailBody": Field("text"),
    "successEmailAddresses": Field("texts", []),
    "successEmailFromName": Field("text"),
    "successEmailReplyTo": Field("text"),
    "failureEmailAddresses": Field("texts", []),
    "stallWarningMinutes": Field("integer"),
    "successOn": Field("bool", True),
    "failureOn": Field("bool", True),
}
PARAM: Table = {
    "name": Field("text", required=True),
    "label": Field("text"),
    "description": Field("text"),
    "type": Field("text", required=True, choices=PARAM_TYPES),
    "required": Field("bool", False),
    "value": Field("any"),
    "default": Field("any"),
    "allowedValues": Field("array", []),
}
RESOURCES: Table = {
    "cpu": Field("integer", required=True, least=2),
    "memory": Field("integer", required=True, least=4),
    "diskSpace": Field("number", 1.0),
}
CUSTOM_RESOURCES: Table = {
    "cpu": Field("integer", least=2),
    "memory": Field("integer", least=4),
    "diskSpace": Field("number"),
}
CONTAINER: Table = {
    "name": Field("text"),
    "parentId": Field("integer"),
    "userContext": Field("text", "runner", choices=("runner", "author")),
    "params": Field(PARAM, [], many=True),
    "arguments": Field("mapping", {}),
    "schedule": Field(SCHEDULE, {}),
    "notifications": Field(NOTIFICATIONS, {}),
    "requiredResources": Field(RESOURCES, {}, required=True),
    "repoHttpUri": Field("text"),
    "repoRef": Field("text"),
    "remoteHostCredentialId": Field("integer"),
    "gitCredentialId": Field("integer"),
    "dockerCommand": Field("text"),
    "dockerImageName": Field("text"),
    "dockerImageTag": Field("text"),
    "instanceType": Field("text"),
    "cancelTimeout": Field("integer", 0, least=0),
    "timeZone": Field("text", "America/Chicago"),
    "partitionLabel": Field("text"),
    "targetProjectId": Field("integer"),
    "runningAsId": Field("integer"),
}
CUSTOM: Table = {
    "name": Field("text"),
    "parentId": Field("integer"),
    "arguments": Field("mapping", {}),
    "remoteHostId": Field("integer"),
    "credentialId": Field("integer"),
    "schedule": Field(SCHEDULE, {}),
    "notifications": Field(NOTIFICATIONS, {}),
    "timeZone": Field("text", "America/Chicago"),
    "targetProjectId": Field("integer"),
    "requiredResources": Field(CUSTOM_RESOURCES),
    "partitionLabel": Field("text"),
    "runningAsId": Field("integer"),
}
HIDDEN: Table = {"hidden": Field("bool", False)}  # at creation only
FROM_TEMPLATE: Table = {"fromTemplateId": Field("integer", required=True)}
CLONE: Table = {
    "cloneSchedule": Field("bool", False),
    "cloneTriggers": Field("bool", False),
    "cloneNotifications": Field("bool", False),
}
ARCHIVE: Table = {"status": Field("bool", required=True)}
TEMPLATE: Table = {
    "scriptId": Field("integer", required=True),
    "name": Field("text", required=True),
    "note": Field("text"),
    "uiReportId": Field("integer"),
    "archived": Field("bool", False),
    "hidden": Field("bool", False),
}
LOG_LINE: Table = {
    "message": Field("text", required=True),
    "level": Field("text", "info", choices=LEVELS),
    "createdAt": Field("time"),
}
LOG: Table = {
    "message": Field("text"),
    "level": Field("text", "info", choices=LEVELS),
    "messages": Field(LOG_LINE, [], many=True),
    "childJobId": Field("integer"),
}
OUTPUT: Table = {
    "objectType": Field("text", required=True, choices=OUTPUT_TYPES),
    "objectId": Field("integer", required=True),
}
NEW_FILE: Table = {
    "name": Field("text", required=True),
    "expiresAt": Field("time"),
    "description": Field("text", longest=512),
}
NEW_MULTIPART: Table = {**NEW_FILE, "numParts": Field("integer", required=True, least=1)}
FILE_CHANGE: Table = {
    "name": Field("text"),
    "expiresAt": Field("time"),
    "description": Field("text", longest=512),
}
NEW_JSON_VALUE: Table = {"name": Field("text"), "valueStr": Field("text", required=True)}
JSON_VALUE_CHANGE: Table = {"name": Field("text"), "valueStr": Field("text")}
