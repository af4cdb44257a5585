// The map itself as a heat map: rows ask, columns are asked.

import { el, fitCanvas } from "../js/dom.js";
import { canvasListbox } from "../js/keys.js";
import { pool } from "../js/maps.js";
import { canvasImage } from "../js/svg.js";

export const draws = "map";

const SMALL = 6; // CSS pixels: smaller cells are shown once more, large, round the present one
const REACH = 7; // cells that the enlargement shows on each side of it
const LONGEST = 1024; // pixels of the prepared picture along one side; longer maps are pooled

export function create(root, ctx) {
  const canvas = el("canvas");
  const sheet = document.createElement("canvas");
  let picture = null;
  let frame = null; // where the cells lie on the canvas
  let state = null;
  let prepared = "";
  let at = 0; // cell under keyboard control: row * columns + column

  const list = canvasListbox(root, { ...ctx, label: cellLabel, hover: moveTo, pin: pinCell, unpin: ctx.unpin }, {
    layout: () => ({
      count: picture?.map ? picture.map.rows * picture.map.columns : 0,
      columns: picture?.map ? picture.map.columns : 1,
    }),
  });
  list.element.append(canvas);
  canvas.addEventListener("pointermove", (event) => {
    const cell = cellAt(event);
    ctx.hoverCell(picture.map, cell ? item(cell.row) : null, cell?.column);
  });
  canvas.addEventListener("pointerleave", () => ctx.hoverCell(null, null));
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) ctx.pinCell(picture.map, item(cell.row), cell.column);
  });

  /** The query item that a held row belongs to. */
  function item(row) { return picture.map.items ? picture.map.items[row] : row; }

  function cellLabel(index) {
    const { map } = picture;
    return ctx.t("item_cell", {
      row: ctx.labelIn(map.query, item(Math.floor(index / map.columns))),
      column: ctx.labelIn(map.key, index % map.columns),
    });
  }

  function moveTo(index) {
    if (index === null) { ctx.hoverCell(null, null); return; }
    at = index;
    const { map } = picture;
    ctx.hoverCell(map, item(Math.floor(index / map.columns)), index % map.columns);
  }

  function pinCell(index) {
    const { map } = picture;
    ctx.pinCell(map, item(Math.floor(index / map.columns)), index % map.columns);
  }

  function cellAt(event) {
    if (!frame || !picture?.map) return null;
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - frame.x) / frame.cellWidth);
    const row = Math.floor((event.clientY - box.top - frame.y) / frame.cellHeight);
    const { map } = picture;
    return column >= 0 && row >= 0 && column < map.columns && row < map.rows ? { row, column } : null;
  }

  /** The cells as pixels, made once per map, head and scale. */
  function prepare() {
    const { map, head, scale } = picture;
    const key = [map.id, head, scale.lo, scale.hi, scale.signed, scale.dark, map.rows, map.columns].join(" ");
    if (key === prepared && sheet.source === map) return;
    prepared = key;
    sheet.source = map;
    const pooled = pool(map.matrix(head), map.rows, map.columns, LONGEST);
    sheet.width = pooled.columns;
    sheet.height = pooled.rows;
    const pixels = scale.pixels(pooled.values);
    sheet.getContext("2d").putImageData(new ImageData(pixels, pooled.columns, pooled.rows), 0, 0);
  }

  function layout() {
    const { map } = picture;
    const pen = canvas.getContext("2d");
    pen.font = `11px ${ctx.theme.font}`;
    const rowItems = map.items ?? Array.from({ length: map.rows }, (_, i) => i);
    const columnItems = Array.from({ length: map.columns }, (_, i) => i);
    // Labels only where there is room to read them; cells of a grid have no names worth the room.
    const named = (name, items) => items.length <= 64 && state.geometries[name].kind !== "image_grid";
    const widest = (name, items) => Math.min(96, 6 + Math.max(...items.map(
      (i) => pen.measureText(ctx.labelIn(name, i)).width)));
    const bare = cellSize(18, 18);
    const rowLabels = named(map.query, rowItems) && bare.cellHeight >= 11;
    const left = 18 + (rowLabels ? widest(map.query, rowItems) : 0);
    const columnLabels = named(map.key, columnItems) && cellSize(left, 18).cellWidth >= 11;
    const top = 18 + (columnLabels ? widest(map.key, columnItems) * 0.75 + 4 : 0);
    frame = { x: left, y: top, ...cellSize(left, top), rowLabels, columnLabels, rowItems };
    return fitCanvas(canvas,
      Math.ceil(left + frame.cellWidth * map.columns + (columnLabels ? 28 : 2)),
      Math.ceil(top + frame.cellHeight * map.rows + 2));
  }

  /** Square cells, unless the map is so long that it would become a thread. */
  function cellSize(left, top) {
    const { map } = picture;
    const width = ctx.width() - left - 28;
    const height = ctx.height() - top - 2;
    const cell = Math.min(width / map.columns, height / map.rows, 34);
    const thin = cell * map.columns < 0.4 * width;
    const flat = cell * map.rows < 0.3 * height;
    return {
      cellWidth: thin ? Math.min((0.6 * width) / map.columns, 34) : cell,
      cellHeight: flat ? Math.min((0.5 * height) / map.rows, 34) : cell,
    };
  }

  function draw() {
    const { map, cell } = picture;
    const { theme } = ctx;
    prepare();
    const pen = layout();
    const { x, y, cellWidth, cellHeight } = frame;
    const width = cellWidth * map.columns;
    const height = cellHeight * map.rows;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = sheet.width > width * 1.5;
    pen.drawImage(sheet, x, y, width, height);
    pen.strokeStyle = theme.border;
    pen.lineWidth = 1;
    pen.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
    drawParts(pen, width, height);
    drawLabels(pen, width, height);
    const row = cell.row === null ? -1 : map.rowOf(cell.row);
    if (row >= 0) band(pen, x, y + row * cellHeight, width, cellHeight);
    if (cell.column !== null) band(pen, x + cell.column * cellWidth, y, cellWidth, height);
    if (row >= 0 && cell.column !== null && Math.min(cellWidth, cellHeight) < SMALL) {
      loupe(pen, row, cell.column, x + width, y + height);
    }
  }

  /** The cells round the present one, large, in the corner that lies away from it. */
  function loupe(pen, row, column, right, bottom) {
    const { map, head, scale } = picture;
    const side = 2 * REACH + 1;
    const size = Math.min(8, (right - frame.x) / 2 / side, (bottom - frame.y) / 2 / side);
    if (size < SMALL / 2) return;
    const x = column < map.columns / 2 ? right - side * size - 6 : frame.x + 6;
    const y = row < map.rows / 2 ? bottom - side * size - 6 : frame.y + 6;
    pen.fillStyle = ctx.theme.background;
    pen.fillRect(x - 2, y - 2, side * size + 4, side * size + 4);
    for (let r = -REACH; r <= REACH; r++) {
      for (let c = -REACH; c <= REACH; c++) {
        const [at, over] = [row + r, column + c];
        if (at < 0 || over < 0 || at >= map.rows || over >= map.columns) continue;
        pen.fillStyle = scale.css(map.value(head, at, over));
        pen.fillRect(x + (c + REACH) * size, y + (r + REACH) * size, size + 0.5, size + 0.5);
      }
    }
    pen.strokeStyle = ctx.theme.border;
    pen.lineWidth = 1;
    pen.strokeRect(x - 1.5, y - 1.5, side * size + 3, side * size + 3);
    pen.strokeStyle = ctx.theme.primary;
    pen.lineWidth = 2;
    pen.strokeRect(x + REACH * size, y + REACH * size, size, size);
  }

  function band(pen, x, y, width, height) {
    pen.strokeStyle = ctx.theme.dark ? "rgba(0,0,0,.6)" : "rgba(255,255,255,.85)";
    pen.lineWidth = 3.5;
    pen.strokeRect(x, y, width, height);
    pen.strokeStyle = ctx.theme.primary;
    pen.lineWidth = 1.6;
    pen.strokeRect(x, y, width, height);
  }

  /** Lines between the parts of a joined geometry. */
  function drawParts(pen, width, height) {
    const { map } = picture;
    pen.strokeStyle = ctx.theme.text;
    pen.globalAlpha = 0.55;
    for (const part of state.geometries[map.key].parts?.slice(1) ?? []) {
      const x = frame.x + part.offset * frame.cellWidth;
      line(pen, x, frame.y, x, frame.y + height);
    }
    for (const part of (map.items ? null : state.geometries[map.query].parts?.slice(1)) ?? []) {
      const y = frame.y + part.offset * frame.cellHeight;
      line(pen, frame.x, y, frame.x + width, y);
    }
    pen.globalAlpha = 1;
  }

  function drawLabels(pen, width, height) {
    const { map, cell } = picture;
    const { theme } = ctx;
    pen.fillStyle = theme.text;
    pen.textBaseline = "middle";
    pen.font = `11px ${theme.font}`;
    if (frame.rowLabels) {
      pen.textAlign = "right";
      frame.rowItems.forEach((query, row) => {
        emphasise(pen, query === cell.row);
        pen.fillText(cut(pen, ctx.labelIn(map.query, query), 90), frame.x - 6, frame.y + (row + 0.5) * frame.cellHeight);
      });
    }
    if (frame.columnLabels) {
      pen.textAlign = "left";
      for (let column = 0; column < map.columns; column++) {
        emphasise(pen, column === cell.column);
        pen.save();
        pen.translate(frame.x + (column + 0.5) * frame.cellWidth, frame.y - 5);
        pen.rotate(-Math.PI / 4);
        pen.fillText(cut(pen, ctx.labelIn(map.key, column), 90), 0, 0);
        pen.restore();
      }
    }
    emphasise(pen, false);
    pen.globalAlpha = 0.65;
    pen.textAlign = "center";
    pen.save();
    pen.translate(8, frame.y + height / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText(ctx.t("matrix_rows"), 0, 0);
    pen.restore();
    pen.fillText(ctx.t("matrix_columns"), frame.x + width / 2, 8);
    pen.globalAlpha = 1;
  }

  function emphasise(pen, yes) {
    pen.globalAlpha = yes ? 1 : 0.75;
    pen.font = `${yes ? "700 " : ""}11px ${ctx.theme.font}`;
  }

  return {
    update(data) {
      state = data.state;
      list.element.setAttribute("aria-label", data.title || ctx.t("panel_matrix"));
    },
    paint(next) {
      picture = next;
      canvas.hidden = !next.map;
      if (!next.map) return;
      draw();
      const { map, cell } = next;
      const row = cell.row === null ? -1 : map.rowOf(cell.row);
      if (row >= 0) at = row * map.columns + (cell.column ?? at % map.columns);
      list.say(row >= 0 ? at : null, next.pinned);
    },
    resize() { if (picture?.map) draw(); },
    svg: () => canvasImage(canvas, () => { if (picture?.map) draw(); }),
    dispose() { list.dispose(); },
  };
}

function cut(pen, label, width) {
  if (pen.measureText(label).width <= width) return label;
  let length = label.length;
  while (length > 1 && pen.measureText(`${label.slice(0, length)}…`).width > width) length--;
  return `${label.slice(0, length)}…`;
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}
