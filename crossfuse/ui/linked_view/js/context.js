// What a panel module may use of the view; README.md tells it in words.

export function contextOf(view, panel) {
  const source = (item) => (item === null ? null : {
    geometry: panel.geometry, item: item + panel.offset,
    ...(panel.role === "any" ? {} : { role: panel.role }),
  });
  return {
    id: `${view.meta.id}-${panel.id}`,
    t: view.t,
    get theme() { return view.theme; },
    get settings() { return view.state.settings; },
    get title() { return panel.title; },
    width: () => panel.body.clientWidth,
    height: () => view.meta.height,
    label: (item) => view.state.label(panel.geometry, item + panel.offset),
    labelIn: (geometry, item) => view.state.label(geometry, item),
    hover: (item) => view.hover(source(item)),
    pin: (item) => view.pin(source(item)),
    hoverCell: (map, row, column) => view.hover(row === null ? null : cellSource(map, row, column)),
    pinCell: (map, row, column) => view.pin(cellSource(map, row, column)),
    unpin: () => view.pin(null),
    choose: (changes) => view.choose(changes),
    nameOf: (axis, value) => view.bar.name(axis, value),
    repaint: () => view.schedule(),
  };
}

function cellSource(map, row, column) {
  return { geometry: map.query, item: row, role: "query", partner: { geometry: map.key, item: column } };
}
