package access

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// EnrolmentLife is how long a one-time secret can be redeemed if nobody said.
const EnrolmentLife = time.Hour

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Enrol keeps a fresh random secret with which one leaf or site can get its
// token, once.
func Enrol(tx *store.Tx, c Caller, secret string, req *ingotv1.EnrolmentServiceCreateRequest) (*privatev1.Enrolment, error) {
	if _, err := records.Partitions.Get(tx, req.GetPartition()); err != nil {
		return nil, err
	}
	life := EnrolmentLife
	if req.GetValidFor() != nil {
		life = req.GetValidFor().AsDuration()
	}
	e := &privatev1.Enrolment{
		Hash:      hash(secret),
		Partition: req.GetPartition(),
		FarEnd:    req.GetFarEnd(),
		Id:        req.GetId(),
		Expires:   timestamppb.New(tx.Now().Add(life)),
		CreatedBy: c.User(),
	}
	return e, records.Enrolments.Insert(tx, e)
}

// Redeem voids a one-time secret and stores the token it stands for under a
// fresh uuid.
func Redeem(tx *store.Tx, secret, uuid string) (*privatev1.Token, error) {
	e, err := records.Enrolments.Get(tx, hash(secret))
	if err != nil || !tx.Now().Before(e.GetExpires().AsTime()) {
		return nil, fault.New(fault.Denied, "", "the secret is not known, was used or has expired", "ask for another with 'ingot partition enroll'")
	}
	if _, err := records.Enrolments.Delete(tx, hash(secret)); err != nil {
		return nil, err
	}
	t := &privatev1.Token{
		Token: &apiv2.Token{
			Uuid:        uuid,
			User:        e.GetCreatedBy(),
			Description: e.GetId() + " in partition " + e.GetPartition(),
			TokenType:   apiv2.TokenType_TOKEN_TYPE_API,
			InfraRole:   apiv2.InfraRole_INFRA_ROLE_EDITOR.Enum(),
			IssuedAt:    timestamppb.New(tx.Now()),
			Expires:     timestamppb.New(tx.Now().Add(MaxTokenLife)),
		},
		Partition: e.GetPartition(),
		FarEnd:    e.GetId(),
		Kind:      e.GetFarEnd(),
	}
	return t, records.Tokens.Insert(tx, t)
}
