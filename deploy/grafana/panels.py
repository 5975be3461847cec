"""The few kinds of panels that our dashboards have, each with one look: builders of Grafana's own SDK."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"
BYTES: Final = "bytes"
BYTES_A_SECOND: Final = "binBps"
COUNT: Final = "short"
SECONDS: Final = "s"
SHARE: Final = "percentunit"
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
PHASES: Final = {
    "unknown": "#808080",
    "startup": "blue",
    "idle": "green",
    "inference": "red",
    "pull": "purple",
    "account": "yellow",
}
"""The phases of a runtime and their colours, the same in every panel."""
Steps = tuple[tuple[float | None, str], ...]
Panel = stat.Panel | timeseries.Panel | statetimeline.Panel | bargauge.Panel | table.Panel
Kind = TypeVar("Kind", stat.Panel, timeseries.Panel, statetimeline.Panel, bargauge.Panel, table.Panel)
PLAIN: Final[Steps] = ((None, "text"),)
BAD: Final[Steps] = ((None, GREEN), (1, RED))
ODD: Final[Steps] = ((None, GREEN), (1, ORANGE))


class Query(NamedTuple):
    """An expression, and how its series are called."""

    expr: str
    legend: str = ""


class Words(NamedTuple):
    """What stands on a panel: title and meaning; and how large it is, of 24 columns."""

    title: str
    description: str
    width: int = 12
    height: int = 8


class State(NamedTuple):
    """What a number means: its word and colour."""

    value: int
    text: str
    color: str


ENFORCED: Final = (State(1, "enforced", GREEN), State(0, "NOT ENFORCED", RED))
ATTACHED: Final = (State(1, "attached", GREEN), State(0, "MISSING", RED))


class Column(NamedTuple):
    """A column of numbers: its name, where it comes from, and how it looks."""

    title: str
    expr: str
    unit: str = COUNT
    steps: Steps = ()
    states: tuple[State, ...] = ()


def big_number(
    words: Words, expr: str, *, unit: str = COUNT, steps: Steps = BAD, states: tuple[State, ...] = ()
) -> stat.Panel:
    """Give one number, coloured by what it means."""
    made = stat.Panel().with_target(_query(Query(expr), 0, instant=True)).unit(unit)
    made.thresholds(_thresholds(steps)).mappings(_mappings(states)).no_value("none")
    made.color_mode(looks.BigValueColorMode.BACKGROUND if states else looks.BigValueColorMode.VALUE)
    made.graph_mode(looks.BigValueGraphMode.NONE)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _dress(made, words)


def graph(words: Words, *queries: Query, unit: str, stacked: bool = False) -> timeseries.Panel:
    """Give lines over time, or areas on top of each other."""
    made = timeseries.Panel().unit(unit).line_width(1).fill_opacity(25 if stacked else 8)
    made.show_points(looks.VisibilityMode.NEVER).legend(_legend())
    for number, query in enumerate(queries):
        made.with_target(_query(query, number))
    if stacked:
        made.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    made.tooltip(
        common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    )
    return _dress(made, words)


def counts(words: Words, *queries: Query) -> timeseries.Panel:
    """Give bars of how many there were in each point of the graph, which is a minute at least."""
    made = graph(words, *queries, unit=COUNT, stacked=True)
    return made.draw_style(looks.GraphDrawStyle.BARS).fill_opacity(70).interval("1m").decimals(0).min(0)


def lanes(words: Words, query: Query, states: tuple[State, ...]) -> statetimeline.Panel:
    """Give one lane a series, coloured by its value."""
    made = statetimeline.Panel().with_target(_query(query, 0)).mappings(_mappings(states))
    made.thresholds(_thresholds(((None, "transparent"),))).show_value(looks.VisibilityMode.NEVER)
    made.merge_values(merge_values=True).row_height(0.8).line_width(0).fill_opacity(80)
    made.legend(common.VizLegendOptions().show_legend(show_legend=False))
    return _dress(made, words)


def ranking(words: Words, query: Query, *, unit: str) -> bargauge.Panel:
    """Give a bar for each series."""
    made = bargauge.Panel().unit(unit).min(0).orientation(looks.VizOrientation.HORIZONTAL)
    made.display_mode(looks.BarGaugeDisplayMode.GRADIENT)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    made.color_scheme(build.FieldColor().mode(models.FieldColorModeId.CONTINUOUS_BL_YL_RD))
    return _dress(made.with_target(_query(query, 0, instant=True)), words)


def rows(words: Words, keys: dict[str, str], columns: tuple[Column, ...], sort: str) -> table.Panel:
    """Give a table: a row for each set of the labels `keys` (label: title), a column for each expression."""
    made = table.Panel().filterable(filterable=True).cell_height(looks.TableCellHeight.SM)
    names = dict(keys)
    for number, column in enumerate(columns):
        made.with_target(_query(Query(column.expr), number, instant=True).format(PromQueryFormat.TABLE))
        made.override_by_name(column.title, _cells(column))
        names[f"Value #{_ref(number)}" if len(columns) > 1 else "Value"] = column.title
    made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    organized = {
        "excludeByName": {"Time": True},
        "indexByName": {name: number for number, name in enumerate(names)},
        "renameByName": names,
    }
    made.with_transformation(models.DataTransformerConfig(id_val="organize", options=organized))
    made.sort_by([common.TableSortByFieldState().display_name(sort).desc(desc=True)])
    return _dress(made, words)


def link_column(made: table.Panel, title: str, text: str, url: str) -> None:
    """Let a click on a cell of the column lead somewhere."""
    link = {"title": text, "url": url}
    made.override_by_name(title, [models.DynamicConfigValue(id_val="links", value=[link])])


def color_of(made: timeseries.Panel, series: str, color: str) -> None:
    """Give a series its fixed colour."""
    _override(made, series, {"color": {"mode": "fixed", "fixedColor": color}})


def below_zero(made: timeseries.Panel, series: str) -> None:
    """Draw a series downwards: what was received under what was sent."""
    _override(made, series, {"custom.transform": "negative-Y"})


def on_the_right(made: timeseries.Panel, series: str, color: str) -> None:
    """Draw a series as steps behind the others, in counts on an axis of its own."""
    properties: dict[str, object] = {
        "unit": COUNT,
        "decimals": 0,
        "color": {"mode": "fixed", "fixedColor": color},
        "custom.axisPlacement": "right",
        "custom.lineInterpolation": "stepAfter",
        "custom.lineWidth": 0,
        "custom.fillOpacity": 20,
    }
    _override(made, series, properties)


def _override(made: timeseries.Panel, series: str, properties: dict[str, object]) -> None:
    values = [models.DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()]
    made.override_by_name(series, values)


def _cells(column: Column) -> list[models.DynamicConfigValue]:
    properties: dict[str, object] = {"unit": column.unit}
    if column.steps or column.states:
        properties["custom.cellOptions"] = {"type": "color-text"}
        properties["thresholds"] = _thresholds(column.steps or PLAIN).build()
        properties["mappings"] = _mappings(column.states)
    elif column.unit == BYTES:
        properties["custom.cellOptions"] = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        properties["color"] = {"mode": "continuous-blues"}
        properties["min"] = 0
    return [models.DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()]


def _dress(panel: Kind, words: Words) -> Kind:
    panel.title(words.title).description(words.description).datasource(SOURCE)
    panel.span(words.width).height(words.height)
    return panel


def _ref(number: int) -> str:
    return chr(ord("A") + number)


def _query(query: Query, number: int, *, instant: bool = False) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(_ref(number)).datasource(SOURCE)
    made.legend_format(query.legend or "__auto")
    return made.instant() if instant else made.range()


def _legend() -> common.VizLegendOptions:
    made = common.VizLegendOptions().show_legend(show_legend=True)
    made.display_mode(looks.LegendDisplayMode.TABLE).placement(looks.LegendPlacement.RIGHT)
    return made.calcs(["max", "lastNotNull"])


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    marks = [models.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(marks)


def _mappings(states: tuple[State, ...]) -> list[models.ValueMapping]:
    if not states:
        return []
    results = {
        str(state.value): models.ValueMappingResult(text=state.text, color=state.color, index=index)
        for index, state in enumerate(states)
    }
    return [models.ValueMap(options=results)]
