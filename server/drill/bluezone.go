package drill

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"bluekey/keystore/diagnosis"
)

const bluezoneCase = "/api/AppHistoryContact/ReportHistory_ConfirmDeclare"

// declaration is what an app built from Bluezone sends of a case.
type declaration struct {
	info, token, number, history, code string
}

// declare hands a case in as such an app does: with six digits read out by staff it sends
// everything twice, side by side, once with its contact history and once without.
func (a *actor) declare(ctx context.Context, p *Province) error {
	code, err := p.IssueDoor(ctx)
	if err != nil {
		return fmt.Errorf("getting six digits: %w", err)
	}
	a.tell("door code", []byte(code))
	d, err := a.declaration(code)
	if err != nil {
		return err
	}
	err = together([]func() error{
		func() error { return d.send(ctx, p.URL+bluezoneCase+"_NoFile", false) },
		func() error { return d.send(ctx, p.URL+bluezoneCase, true) },
	})
	if err != nil {
		return fmt.Errorf("handing a case in at the Bluezone door: %w", err)
	}
	return nil
}

// declaration is the whole of what the phone tells, of which only day seeds may be kept. It
// was installed on the day of its first key, so its root key is that day's.
func (a *actor) declaration(code string) (*declaration, error) {
	a.tell("root key", a.root[:])
	daily := a.root
	for range len(a.keys) + 1 { // as far as today, the day before which may not be due yet
		daily = diagnosis.NextDailyKey(daily)
		a.tell("daily key", daily[:])
	}
	tail, err := rand.Int(rand.Reader, big.NewInt(1e8))
	if err != nil {
		return nil, fmt.Errorf("draw a phone number: %w", err)
	}
	d := &declaration{token: "fcm-" + rand.Text(), number: fmt.Sprintf("09%08d", tail), code: code}
	met, first := rand.Text(), a.scheme.Time(a.keys[0].Start).Unix()
	for i := range 300 {
		d.history += fmt.Sprintf("%s\t%s\t-%d\t%d\n", met, met, 40+i%50, (first+int64(i)*60)*1000)
	}
	a.tell("push token", []byte(d.token))
	a.tell("phone number", []byte(d.number))
	a.tell("contact history", []byte(met))
	root := strings.ToUpper(hex.EncodeToString(a.root[:]))
	d.info = fmt.Sprintf(`{"base_id":"%s","time":%d,"daily_key":"%s","time_start":%d}`, root, first, root, first)
	return d, nil
}

// send posts one of the two requests.
func (d *declaration) send(ctx context.Context, url string, file bool) error {
	body, contentType, err := d.form(file)
	if err != nil {
		return err
	}
	status, reply, err := post(ctx, url, contentType, body)
	if err != nil {
		return err
	}
	return checkBluezone(status, reply)
}

// form writes a request as the app's libraries do: the file first, and with it a content type
// that is not true.
func (d *declaration) form(file bool) (body []byte, contentType string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	err = w.SetBoundary(fmt.Sprintf("RNFetchBlob%d", time.Now().UnixNano()))
	contentType = w.FormDataContentType()
	if file {
		contentType = "application/octet-stream"
		part, failed := w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="history"; filename="data_trace.txt"`}, "Content-Type": {"text/xml"},
		})
		if failed == nil {
			_, failed = part.Write([]byte(d.history))
		}
		err = errors.Join(err, failed)
	}
	for _, field := range [][2]string{{"TokenFirebase", d.token}, {"InfoF", d.info}, {"PhoneNumber", d.number}, {"OTP", d.code}} {
		err = errors.Join(err, w.WriteField(field[0], field[1]))
	}
	err = errors.Join(err, w.Close())
	return b.Bytes(), contentType, err
}

// checkBluezone reads the envelope, which the app looks at only where HTTP says 200.
func checkBluezone(status int, reply []byte) error {
	said := struct {
		IsOk, IsError bool
		Status        int
	}{IsError: true, Status: -1}
	if err := json.Unmarshal(reply, &said); err != nil {
		return fmt.Errorf("HTTP %d and no envelope: %w", status, err)
	}
	if status != http.StatusOK || !said.IsOk || said.IsError || said.Status != 0 {
		return fmt.Errorf("HTTP %d, isOk %t, Status %d", status, said.IsOk, said.Status)
	}
	return nil
}
