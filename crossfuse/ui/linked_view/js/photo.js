// A photograph under a painted geometry: in colour at rest, faded while weights lie on it.

export class Photo {
  constructor(onReady) {
    this.onReady = onReady;
    this.bitmap = null;
    this.faded = null;
  }

  /** `bytes`: an encoded image (JPEG or PNG), or undefined. */
  load(bytes) {
    const mark = bytes ? `${bytes.length} ${checksum(bytes)}` : "";
    if (mark === this.mark) return;
    this.mark = mark;
    this.bitmap = this.faded = null;
    if (!bytes) return;
    this.url = null;
    createImageBitmap(new Blob([bytes])).then((bitmap) => {
      if (this.mark !== mark) return;
      this.bitmap = bitmap;
      this.onReady();
    });
  }

  /** Draw at (0, 0, width, height); `fade` 0..1 takes the photo towards grey and the page. */
  draw(pen, width, height, fade, theme) {
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.canvas.dataset.photo = this.bitmap ? "drawn" : "coming";
    if (!this.bitmap) {
      pen.fillStyle = theme.secondary;
      pen.fillRect(0, 0, width, height);
    } else if (fade === 0) {
      pen.drawImage(this.bitmap, 0, 0, width, height);
    } else {
      pen.drawImage(this.fadedCopy(pen.canvas.width, pen.canvas.height, fade, theme), 0, 0, width, height);
    }
  }

  /** Fading is slow next to painting, so that its result is kept. */
  fadedCopy(width, height, fade, theme) {
    const key = `${width} ${height} ${fade} ${theme.background}`;
    if (this.faded?.key !== key) {
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const pen = canvas.getContext("2d");
      pen.imageSmoothingQuality = "high";
      pen.filter = `grayscale(${fade})`;
      pen.drawImage(this.bitmap, 0, 0, width, height);
      pen.filter = "none";
      pen.globalAlpha = (theme.dark ? 0.45 : 0.42) * fade;
      pen.fillStyle = theme.background;
      pen.fillRect(0, 0, width, height);
      this.faded = { key, canvas };
    }
    return this.faded.canvas;
  }
}

function checksum(bytes) {
  let sum = 0;
  const step = Math.max(1, bytes.length >> 10);
  for (let i = 0; i < bytes.length; i += step) sum = (sum * 31 + bytes[i]) | 0;
  return sum;
}

/** The size at which a photo of width x height fits the panel. */
export function fitPhoto(imageWidth, imageHeight, maxWidth, maxHeight) {
  const zoom = Math.min(maxWidth / imageWidth, maxHeight / imageHeight);
  return { zoom, width: Math.max(1, Math.floor(imageWidth * zoom)), height: Math.max(1, Math.floor(imageHeight * zoom)) };
}

/** Opacity of a weight laid on a photo: weak weights leave the photo to be seen. */
export function overlayAlpha(opacity) {
  return (strength) => opacity * Math.min(1, 0.08 + 0.92 * Math.pow(strength, 0.75));
}

/** A box drawn so that it shows on any photo: a light line on a dark one. */
export function outline(pen, x, y, width, height, { colour = "#fff", line = 2, dash = [] } = {}) {
  pen.setLineDash([]);
  pen.lineJoin = "round";
  pen.strokeStyle = "rgba(10,10,16,.75)";
  pen.lineWidth = line + 2;
  pen.strokeRect(x, y, width, height);
  pen.setLineDash(dash);
  pen.strokeStyle = colour;
  pen.lineWidth = line;
  pen.strokeRect(x, y, width, height);
  pen.setLineDash([]);
}

/** A small number beside a marked place: its rank among the strongest. */
export function rankBadge(pen, x, y, rank, font) {
  pen.font = `600 10px ${font}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillStyle = "rgba(10,10,16,.82)";
  pen.beginPath();
  pen.arc(x, y, 7.5, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.fillText(String(rank), x, y + 0.5);
}
