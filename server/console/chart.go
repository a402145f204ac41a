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
	chartRight  = 16
	chartTop    = 14
	chartBottom = 34
)

// dot is a value on a day.
type dot struct {
	day   time.Time
	value float64
}

// chart is one being drawn: a frame from one day to another and from nothing to a top.
type chart struct {
	strings.Builder
	words
	left       float64
	from, till time.Time
	step, top  float64
}

// newChart begins a drawing whose highest value is known. label forms the words at the
// lines of the frame.
func (w words) newChart(title string, left float64, from, till time.Time, highest float64, label func(value, step float64) string) *chart {
	c := &chart{words: w, left: left, from: from, till: till, step: niceStep(highest / 4)}
	c.top = max(c.step, math.Ceil(highest/c.step)*c.step)
	fmt.Fprintf(c, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(title))
	for v := 0.0; v <= c.top+c.step/2; v += c.step {
		_, y := c.place(dot{from, v})
		fmt.Fprintf(c, `<path class="axis" d="M%.0f %.1fH%d"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`,
			left, y, chartWidth-chartRight, left-6, y+4, label(v, c.step))
	}
	return c
}

func (c *chart) place(d dot) (x, y float64) {
	return c.left + (chartWidth-c.left-chartRight)*d.day.Sub(c.from).Hours()/c.till.Sub(c.from).Hours(),
		chartTop + (chartHeight-chartTop-chartBottom)*(1-d.value/c.top)
}

// line joins dots, which it marks if they are to be seen.
func (c *chart) line(class string, dots []dot, marked bool) {
	var path strings.Builder
	for i, d := range dots {
		x, y := c.place(d)
		fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x, y)
		if marked {
			fmt.Fprintf(c, `<circle class="dot" cx="%.1f" cy="%.1f" r="3.5"/>`, x, y)
		}
	}
	fmt.Fprintf(c, `<path class="%s" d="%s"/>`, class, path.String())
}

// done writes the days below and ends the drawing.
func (c *chart) done() template.HTML {
	fmt.Fprintf(c, `<text x="%.0f" y="%d">%s</text><text x="%d" y="%d" text-anchor="end">%s</text></svg>`,
		c.left, chartHeight-10, c.date(c.from), chartWidth-chartRight, chartHeight-10, c.date(c.till))
	return template.HTML(c.String())
}

// trend draws the rate over time. It is empty with fewer than two days to draw.
func (w words) trend(points []desk.Standing, days []string) template.HTML {
	var dots []dot
	highest := 0.0
	for i, p := range points {
		day, err := time.Parse(time.DateOnly, days[i])
		if err == nil && p.RateKnown {
			rate := desk.Rate(p.RateInstalls, p.RateSmartphones, 2).Float()
			dots, highest = append(dots, dot{day, rate}), max(highest, rate)
		}
	}
	if len(dots) < 2 {
		return ""
	}
	c := w.newChart(w.T("chart.label"), 52, dots[0].day, dots[len(dots)-1].day, highest, func(v, step float64) string {
		digits := 0
		if step < 1 {
			digits = 1
		}
		return w.Percent(desk.Percent{Value: int64(math.Round(v * math.Pow10(digits))), Digits: digits})
	})
	c.line("line", dots, true)
	return c.done()
}

// pace draws the installs up to today and the way that is left to the unit's part of the
// national goal. It is empty if that part is not known, or the day of the goal is over.
func (w words) pace(points []desk.Standing, days []string, today string, part desk.Share, until string) template.HTML {
	var dots []dot
	for i, p := range points {
		day, err := time.Parse(time.DateOnly, days[i])
		if err == nil && p.Installs.Known {
			dots = append(dots, dot{day, float64(p.Installs.Value)})
		}
	}
	now, err := time.Parse(time.DateOnly, today)
	end, err2 := time.Parse(time.DateOnly, until)
	if err != nil || err2 != nil || len(dots) == 0 || part.Quota == 0 || !now.Before(end) {
		return ""
	}
	goal, ahead := dot{end, float64(part.Quota)}, dot{now, dots[len(dots)-1].value}
	highest := goal.value
	for _, d := range dots {
		highest = max(highest, d.value)
	}
	c := w.newChart(w.T("chart.pace"), 84, dots[0].day, end, highest, func(v, _ float64) string { return w.N(int64(v)) })
	c.line("ahead", []dot{ahead, goal}, false)
	c.line("line", dots, true)
	return c.done()
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
