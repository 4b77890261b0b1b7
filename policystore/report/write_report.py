"""Read a store, and write the page that shows it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from functools import partial
from os import PathLike

from policystore._util.messages import brief
from policystore._util.progress import Meter
from policystore.errors import InvalidInputError
from policystore.report.content import flat_versions
from policystore.report.differences import compare_pairs, plan_pairs
from policystore.report.document import DETAILS, ReportData, build_document
from policystore.report.leagues import (
    LeagueContent,
    analyse_league,
    names_of_players,
    read_leagues,
)
from policystore.report.lineage import find_parents
from policystore.report.page import render_page
from policystore.report.reading import ContentReader
from policystore.report.sizes import measure
from policystore.report.summary import ReportSummary
from policystore.report.writing import place_of_page, write_page
from policystore.repository.lookup.marker import require_store
from policystore.repository.objects import ObjectReader

__all__ = ["write_report"]

_MAX_PAGE = 1_500_000  # bytes; details are left out of a page that would be larger


def write_report(
    objects: ObjectReader,
    out: str | PathLike[str],
    names: str | Iterable[str] | None,
    leagues: str | Iterable[str] | None,
    *,
    limit: int,
    diffs: int,
    diff_nbytes: int,
    title: str | None,
    time: datetime.datetime,
    meter: Meter,
) -> ReportSummary:
    """Read a store and write its page; arguments and errors as in ``PolicyStore.report``."""
    for label, number in (("limit", limit), ("diffs", diffs), ("diff_nbytes", diff_nbytes)):
        if type(number) is not int or number < 0:
            raise InvalidInputError(f"{label} is a whole number of at least 0, not {brief(number)}")
    if not isinstance(time, datetime.datetime) or time.tzinfo is None:
        raise InvalidInputError(f"time is a datetime with a time zone, not {brief(time)}")
    if title is not None and not isinstance(title, str):
        raise InvalidInputError(f"title is a text, not {brief(title)}")
    page = place_of_page(out)
    require_store(objects.backend)
    records = ContentReader(objects.backend, limit, meter)
    played = read_leagues(records, names, leagues)
    contents = records.read(_wanted_names(records, names, leagues, played))
    versions = flat_versions(contents)
    tried = [
        records.attempt(f"league {each.name}", partial(analyse_league, each, versions))
        for each in played
    ]
    analysed = [each for each in tried if each is not None]
    parents = find_parents(versions)
    sizes = measure(contents, records, objects)
    pairs = plan_pairs(contents, versions, parents, sizes, count=diffs, nbytes=diff_nbytes)
    url = objects.backend.url
    data = ReportData(
        url=url,
        title=url if title is None else title,
        time=time,
        contents=contents,
        parents=parents,
        sizes=sizes,
        comparisons=compare_pairs(pairs, versions, records, objects, meter),
        leagues=analysed,
        problems=sorted(set(records.problems)),
    )
    rendered, detail = b"", DETAILS[0]
    for detail in DETAILS:
        rendered = render_page(build_document(data, detail))
        if len(rendered) <= _MAX_PAGE:
            break
    write_page(page, rendered)
    return ReportSummary(
        path=page.resolve(),
        nbytes=len(rendered),
        names=len(contents),
        versions=len(versions),
        differences=len(data.comparisons),
        leagues=len(analysed),
        players=sum(each.player_count for each in analysed),
        not_shown=data.not_shown,
        shortened=detail is not DETAILS[0],
        problems=tuple(data.problems),
    )


def _wanted_names(
    records: ContentReader,
    names: str | Iterable[str] | None,
    leagues: str | Iterable[str] | None,
    played: list[LeagueContent],
) -> list[str]:
    """Return the names of a report; if only leagues were asked for, those that play in them."""
    if names is not None or leagues is None:
        return records.names(names)
    playing = {ref for league in played for ref in league.refs.values()}
    return sorted(names_of_players(playing).intersection(records.names(None)))
