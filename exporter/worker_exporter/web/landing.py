"""The page at `/`: what this is and where to go on; no assets, no script."""

from collections.abc import Iterable
from html import escape
from string import Template
from urllib.parse import quote

from worker_exporter import __version__

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>worker-exporter</title>
<style>
  :root { --text: #1c2127; --soft: #5f6b7c; --line: #d9dee5; --link: #1558b0; --back: #fbfcfd; }
  @media (prefers-color-scheme: dark) {
    :root { --text: #e6e9ee; --soft: #97a3b4; --line: #313a46; --link: #82b4ff; --back: #14181d; }
  }
  body { margin: 0 auto; padding: 12vh 1.5rem 3rem; max-width: 38rem; background: var(--back);
    color: var(--text); font: 16px/1.6 system-ui, sans-serif; }
  h1 { margin: 0; font-size: 1.7rem; font-weight: 650; letter-spacing: -.01em; }
  h1 small { margin-left: .4rem; color: var(--soft); font-size: .9rem; font-weight: 400; }
  h2 { margin: 2rem 0 .4rem; color: var(--soft); font-size: .8rem; font-weight: 600;
    letter-spacing: .06em; text-transform: uppercase; }
  p { margin: .3rem 0; color: var(--soft); }
  ul { margin: 0; padding: 0; list-style: none; border-top: 1px solid var(--line); }
  li { display: flex; gap: 1rem; padding: .4rem 0; border-bottom: 1px solid var(--line); }
  li span { color: var(--soft); }
  a { flex: 0 0 9rem; color: var(--link); text-decoration: none; }
  a:hover { text-decoration: underline; }
  code { font: .9em ui-monospace, monospace; }
</style>
<h1>worker-exporter<small>$version</small></h1>
<p>CPU, memory, IO and pressure of every worker on this host, as the kernel counts them.</p>
<h2>Pages</h2>
<ul>
  <li><a href="$metrics">$metrics</a><span>everything, for Prometheus</span>
  <li><a href="/workers">/workers</a><span>names and states of the workers, in JSON</span>
  <li><a href="/-/healthy">/-/healthy</a><span>the process answers</span>
  <li><a href="/-/ready">/-/ready</a><span>it takes scrapes</span>
</ul>
<h2>Collectors</h2>
<ul>
$collectors
</ul>
<h2>Documentation</h2>
<p>Every family says in its HELP line which kernel file it comes from; all flags are in
<code>worker-exporter --help</code>.</p>
</html>
""")


def landing_page(telemetry_path: str, collectors: Iterable[tuple[str, str]]) -> str:
    """The page, with a link for each of `collectors`: its name and its summary."""
    links = (
        f'  <li><a href="{escape(telemetry_path)}?collect%5B%5D={quote(name)}">{escape(name)}</a>'
        f"<span>{escape(summary)}</span>"
        for name, summary in collectors
    )
    return _PAGE.substitute(
        version=escape(__version__), metrics=escape(telemetry_path), collectors="\n".join(links)
    )
