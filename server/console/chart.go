package console

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"bluekey/keystore/desk"
)

// A chart is drawn for 360 units across, so that its words can be read on a phone.
const (
	chartWidth  = 360
	chartHeight = 200
	chartLeft   = 52
	chartRight  = 16
	chartTop    = 14
	chartBottom = 34
)

// trend draws the rate over time. It is empty with fewer than two days to draw.
func (w words) trend(points []desk.Standing, days []string) template.HTML {
	type dot struct{ x, y float64 }
	var at []time.Time
	var rates []float64
	for i, p := range points {
		t, err := time.Parse(time.DateOnly, days[i])
		if err == nil && p.RateKnown {
			at = append(at, t)
			rates = append(rates, desk.Rate(p.RateInstalls, p.RateSmartphones, 2).Float())
		}
	}
	if len(at) < 2 {
		return ""
	}
	highest := 0.0
	for _, r := range rates {
		highest = max(highest, r)
	}
	step := niceStep(highest / 4)
	top := max(step, math.Ceil(highest/step)*step)
	first, span := at[0], at[len(at)-1].Sub(at[0]).Hours()
	place := func(t time.Time, rate float64) dot {
		return dot{
			chartLeft + (chartWidth-chartLeft-chartRight)*t.Sub(first).Hours()/span,
			chartTop + (chartHeight-chartTop-chartBottom)*(1-rate/top),
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(w.T("chart.label")))
	digits := 0
	if step < 1 {
		digits = 1
	}
	for r := 0.0; r <= top+step/2; r += step {
		y := place(first, r).y
		fmt.Fprintf(&b, `<path class="axis" d="M%d %.1fH%d"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			chartLeft, y, chartWidth-chartRight, chartLeft-6, y+4, w.Percent(desk.Percent{Value: int64(math.Round(r * math.Pow10(digits))), Digits: digits}))
	}
	var line strings.Builder
	for i := range at {
		d := place(at[i], rates[i])
		fmt.Fprintf(&line, "%c%.1f %.1f", "ML"[min(i, 1)], d.x, d.y)
		fmt.Fprintf(&b, `<circle class="dot" cx="%.1f" cy="%.1f" r="3.5"/>`, d.x, d.y)
	}
	fmt.Fprintf(&b, `<path class="line" d="%s"/>`, line.String())
	fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><text x="%d" y="%d" text-anchor="end">%s</text></svg>`,
		chartLeft, chartHeight-10, w.date(first), chartWidth-chartRight, chartHeight-10, w.date(at[len(at)-1]))
	return template.HTML(b.String())
}

// niceStep is 1, 2 or 5 times a power of ten, at least as large as x.
func niceStep(x float64) float64 {
	if x <= 0 {
		return 1
	}
	base := math.Pow10(int(math.Floor(math.Log10(x))))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*base >= x {
			return m * base
		}
	}
	return 10 * base
}
