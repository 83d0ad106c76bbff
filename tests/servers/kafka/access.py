"""Rights in a cluster: given and taken."""

from broker import admin, done
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

WRITE, CREATE, READ, DESCRIBE = AclOperation.WRITE, AclOperation.CREATE, AclOperation.READ, AclOperation.DESCRIBE
TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP


def grant(address, principals, rights):
    """Each right is of a kind, of names that begin so, and an operation."""
    bindings = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, f"User:{who}", "*", operation, AclPermissionType.ALLOW)
        for who in principals
        for kind, name, operation in rights
    ]
    operator = admin(address)
    done(operator.create_acls(bindings))


def revoke(address, name):
    """Takes every right on topics that is given for exactly this beginning of names."""
    wanted = AclBindingFilter(TOPIC, name, ResourcePatternType.PREFIXED, None, None, AclOperation.ANY, AclPermissionType.ANY)
    operator = admin(address)
    done(operator.delete_acls([wanted]))
