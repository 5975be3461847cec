"""What both dashboards have around their panels: variables, links, marks of alerts, rows."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as models
from panels import SOURCE, Panel

TAG: Final = "tattle"


def frame(title: str, uid: str, description: str) -> build.Dashboard:
    """Give an empty dashboard: the last six hours, afresh each half minute, one crosshair for all panels."""
    made = build.Dashboard(title).uid(uid).description(description).tags([TAG]).readonly()
    made.time("now-6h", "now").refresh("30s").timezone("browser").tooltip(
        models.DashboardCursorSync.CROSSHAIR
    )
    others = build.DashboardLink("Dashboards of tattle").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    made.link(others.as_dropdown(as_dropdown=True).include_vars(include_vars=True).keep_time(keep_time=True))
    return made.variables([build.DatasourceVariable("datasource").label("Data source").type("prometheus")])


def variable(name: str, label: str, query: str, *, many: bool, everything: str = "") -> build.QueryVariable:
    """Give a choice of label values that are there in the time range; `everything` is what All stands for."""
    made = build.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    made.regex("/.+/").multi(multi=many)
    if everything:
        made.include_all(include_all=True).all_value(everything)
        made.current(models.VariableOption(text="All", value="$__all", selected=True))
    return made


def alerts(made: build.Dashboard, selection: str) -> None:
    """Mark in all panels when an alert of ours began and ended."""
    mark = build.AnnotationQuery().name("Alerts").datasource(SOURCE).enable(enable=True).icon_color("red")
    firing = f'ALERTS{{alertname=~"Tattle.*", alertstate="firing", {selection}}}'
    made.annotation(mark.expr(firing))


def fill(made: build.Dashboard, title: str, *panels: Panel) -> None:
    """Add a row of panels below its title; without a title, just the panels."""
    if title:
        made.with_row(build.Row(title))
    for panel in panels:
        made.with_panel(panel)


def finish(made: build.Dashboard) -> models.Dashboard:
    """Give the model, its panels numbered: links to one of them stay true."""
    model = made.build()
    for number, panel in enumerate(model.panels or [], 1):
        panel.id_val = number
    return model
