"""The route table of the gateway, one file a concern."""

from __future__ import annotations

from services.api.routes import (
    accounts,
    admin,
    delivery,
    executions,
    fleet,
    graphs,
    health,
    instances,
    keys,
    observation,
    oidc,
    secrets,
    sessions,
    signing_keys,
    tenants,
    tickets,
    triggers,
    workflow_controls,
    workflows,
)

ALL_ROUTES = (
    *health.ROUTES,
    *admin.ROUTES,
    *workflows.ROUTES,
    *workflow_controls.ROUTES,
    *instances.ROUTES,
    *executions.ROUTES,
    *delivery.ROUTES,
    *observation.ROUTES,
    *secrets.ROUTES,
    *signing_keys.ROUTES,
    *triggers.ROUTES,
    *graphs.ROUTES,
    *fleet.ROUTES,
    *keys.ROUTES,
    *tenants.ROUTES,
    *sessions.ROUTES,
    *oidc.ROUTES,
    *tickets.ROUTES,
    *accounts.ROUTES,
)
"""Every route there is, in the order of the documentation."""
