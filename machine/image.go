package machine

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// imageLife is how long an image may be used if nobody says so.
const imageLife = 90 * 24 * time.Hour

var (
	osName  = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9_.-]*$`)
	version = regexp.MustCompile(`^[0-9]+(\.[0-9]+){0,2}$`)
)

// ParseImage splits "os-major[.minor[.patch]]" at its last dash and returns how
// many numbers the version has. Without a version it is all os, and version
// nil.
func ParseImage(id string) (os string, v *semver.Version, numbers int, err error) {
	os, number := id, ""
	if i := strings.LastIndexByte(id, '-'); i >= 0 && version.MatchString(id[i+1:]) {
		os, number = id[:i], id[i+1:]
	}
	if !osName.MatchString(os) {
		return "", nil, 0, invalid("image %q: no name of an operating system, like debian-13.0", id)
	}
	if number == "" {
		return os, nil, 0, nil
	}
	v, err = semver.NewVersion(number)
	if err != nil {
		return "", nil, 0, invalid("image %q: %s is no version: %s", id, number, err)
	}
	return os, v, 1 + strings.Count(number, "."), nil
}

// CreateImage adds an image. Without a classification it is a preview, without
// an end it ends in 90 days.
func CreateImage(tx *store.Tx, i *apiv2.Image) error {
	if _, v, numbers, err := ParseImage(i.GetId()); err != nil {
		return err
	} else if v == nil || numbers < 2 {
		return invalid("image %q: the id needs a version, like debian-13.0.20260131", i.GetId())
	}
	if err := checkImage(tx, i); err != nil {
		return err
	}
	return records.Images.Insert(tx, i)
}

// ChangeImage edits an image. What the sites found at another url counts no
// more.
func ChangeImage(tx *store.Tx, id string, edit func(*apiv2.Image) error) (*apiv2.Image, error) {
	return records.Images.Change(tx, id, func(i *apiv2.Image) error {
		was := i.GetUrl()
		if err := edit(i); err != nil {
			return err
		}
		if was != i.GetUrl() {
			if err := forgetChecks(tx, id); err != nil {
				return err
			}
		}
		return checkImage(tx, i)
	})
}

func checkImage(tx *store.Tx, i *apiv2.Image) error {
	if err := CheckURL(i.GetUrl()); err != nil {
		return invalid("image %s: %s", i.GetId(), err)
	}
	if len(i.GetFeatures()) == 0 || slices.Contains(i.GetFeatures(), apiv2.ImageFeature_IMAGE_FEATURE_UNSPECIFIED) {
		return invalid("image features must be specified")
	}
	if i.GetExpiresAt() == nil {
		i.ExpiresAt = timestamppb.New(tx.Now().Add(imageLife))
	}
	if !i.GetExpiresAt().AsTime().After(tx.Now()) {
		return invalid("image %s: expires at %s, which is past", i.GetId(), i.GetExpiresAt().AsTime().Format(time.RFC3339))
	}
	if i.GetClassification() == apiv2.ImageClassification_IMAGE_CLASSIFICATION_UNSPECIFIED {
		i.Classification = apiv2.ImageClassification_IMAGE_CLASSIFICATION_PREVIEW
	}
	return nil
}

// CheckURL checks the shape of a url that a site will fetch. The control plane
// never fetches it.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("the url is malformed")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("the url %s is not http or https", u.Redacted())
	case u.Hostname() == "":
		return fmt.Errorf("the url %s has no host", u.Redacted())
	case u.User != nil:
		return errors.New("the url has a password, and everybody can read it")
	}
	return nil
}

// ImageUnused returns an error if a machine is allocated with an image, or on
// its way out of such an allocation.
func ImageUnused(r store.Reader, id string) error {
	if records.Allocations.Count(r, "image", id) > 0 {
		return fault.New(fault.Precondition, "", "cannot remove image with existing machine allocations", "")
	}
	return nil
}

// Latest returns the newest image for a name: an exact one for a name with a
// patch version, else the newest of the minor version, major version or
// operating system, of one classification if that is given.
func Latest(r store.Reader, name string, class *apiv2.ImageClassification) (*apiv2.Image, error) {
	return latest(r, name, func(i *apiv2.Image) bool { return class == nil || i.GetClassification() == *class })
}

func latest(r store.Reader, name string, suits func(*apiv2.Image) bool) (*apiv2.Image, error) {
	os, want, numbers, err := ParseImage(name)
	if err != nil {
		return nil, err
	}
	var best *apiv2.Image
	var newest *semver.Version
	for i := range records.Images.By(r, "os", os) {
		_, v, _, err := ParseImage(i.GetId())
		if err != nil || v == nil || !within(v, want, numbers) || !suits(i) {
			continue
		}
		if newest == nil || v.GreaterThan(newest) {
			best, newest = i, v
		}
	}
	if best == nil {
		if want == nil {
			return nil, fault.Newf(fault.NotFound, "", "no image for os:%s found", os)
		}
		return nil, fault.Newf(fault.NotFound, "", "no image for os:%s version:%s found", os, want)
	}
	return best, nil
}

// within reports whether a version begins with the given numbers of another.
func within(v, want *semver.Version, numbers int) bool {
	return (numbers < 1 || v.Major() == want.Major()) && (numbers < 2 || v.Minor() == want.Minor()) && (numbers < 3 || v.Patch() == want.Patch())
}

// ResolveImage returns the image that an allocation with this name gets: an
// exact one for a name with a patch version, else the newest supported one. An
// image cannot be had after its end.
func ResolveImage(tx *store.Tx, name string) (*apiv2.Image, error) {
	_, _, numbers, err := ParseImage(name)
	if err != nil {
		return nil, err
	}
	expired := func(i *apiv2.Image) bool { return !i.GetExpiresAt().AsTime().After(tx.Now()) }
	i, err := latest(tx, name, func(i *apiv2.Image) bool {
		return numbers == 3 || i.GetClassification() == apiv2.ImageClassification_IMAGE_CLASSIFICATION_SUPPORTED && !expired(i)
	})
	if err != nil {
		return nil, err
	}
	if expired(i) {
		return nil, fault.New(fault.Precondition, "image "+i.GetId(), "expired at "+i.GetExpiresAt().AsTime().Format(time.RFC3339), "use a newer image")
	}
	return access.Open(tx, records.Images, i.GetId())
}

// ImageOrder compares images for a list: by os, newest first.
func ImageOrder(a, b *apiv2.Image) int {
	osA, vA, _, errA := ParseImage(a.GetId())
	osB, vB, _, errB := ParseImage(b.GetId())
	if errA != nil || errB != nil || osA != osB || vA == nil || vB == nil || vA.Equal(vB) {
		return strings.Compare(a.GetId(), b.GetId())
	}
	return vB.Compare(vA)
}

// PutSource pins what the file behind an image's url must be. What the sites
// found before counts no more if a pin changed.
func PutSource(tx *store.Tx, s *ingotv1.ImageSource) error {
	if _, err := access.Open(tx, records.Images, s.GetImage()); err != nil {
		return err
	}
	if s.GetSha256() == "" && s.GetSha512() == "" {
		return fault.New(fault.Invalid, "imagesource "+s.GetImage(), "has no digest", "give the sha256 or the sha512 of the file")
	}
	s.Checks = nil
	if was, ok := records.ImageSources.Peek(tx, s.GetImage()); ok {
		labels := s.GetMeta().GetLabels()
		if s.Meta = was.GetMeta(); labels != nil {
			s.Meta.Labels = labels
		}
		if pins(was, s) {
			s.Checks = was.GetChecks()
		}
	}
	return records.ImageSources.Put(tx, s)
}

func pins(a, b *ingotv1.ImageSource) bool {
	return a.GetSha256() == b.GetSha256() && a.GetSha512() == b.GetSha512() && a.GetSize() == b.GetSize() && a.GetFormat() == b.GetFormat()
}

func forgetChecks(tx *store.Tx, image string) error {
	_, err := records.ImageSources.Change(tx, image, func(s *ingotv1.ImageSource) error {
		s.Checks = nil
		return nil
	})
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// Checked records what a partition's cache found at the url of an image,
// instead of what it found before. Nothing is written when it found the same.
// An image that is not known any more is none of its business.
func Checked(tx *store.Tx, partition, image string, c *ingotv1.ImageCheck) error {
	c = proto.CloneOf(c)
	c.Partition = partition
	if _, err := records.Images.Get(tx, image); errors.Is(err, fault.NotFound) {
		return nil
	}
	s, ok := records.ImageSources.Peek(tx, image)
	if !ok {
		s = &ingotv1.ImageSource{Image: image}
	}
	checks := slices.DeleteFunc(slices.Clone(s.GetChecks()), func(old *ingotv1.ImageCheck) bool { return old.GetPartition() == partition })
	if i := slices.IndexFunc(s.GetChecks(), func(old *ingotv1.ImageCheck) bool { return sameCheck(old, c) }); i >= 0 {
		return nil
	}
	if c.GetTime() == nil {
		c.Time = timestamppb.New(tx.Now())
	}
	s.Checks = append([]*ingotv1.ImageCheck{c}, checks...)
	return records.ImageSources.Put(tx, s)
}

// sameCheck reports whether two checks differ in nothing but their time.
func sameCheck(a, b *ingotv1.ImageCheck) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Time, b.Time = nil, nil
	return proto.Equal(a, b)
}

// CheckConstraints checks the constraints of a size by themselves.
func CheckConstraints(cs []*apiv2.ImageConstraint) error {
	if len(cs) == 0 {
		return invalid("at least one image constraint must be given")
	}
	for _, c := range cs {
		if _, err := semver.NewConstraint(c.GetSemverMatch()); err != nil {
			return invalid("image constraint %s: %q is no semver match: %s", c.GetImage(), c.GetSemverMatch(), err)
		}
	}
	return nil
}

// CheckConstraint returns an error if a size cannot run an image. A size
// without constraints runs all images, and so does one without any for this
// operating system.
func CheckConstraint(r store.Reader, size string, i *apiv2.Image) error {
	if err := TryConstraint(r, size, i); err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// TryConstraint is CheckConstraint for a size that must have constraints;
// fault.NotFound if it has none.
func TryConstraint(r store.Reader, size string, i *apiv2.Image) error {
	cs, err := records.SizeImageConstraints.Get(r, size)
	if err != nil {
		return err
	}
	os, v, _, err := ParseImage(i.GetId())
	if err != nil {
		return err
	}
	for _, c := range cs.GetImageConstraints() {
		match, err := semver.NewConstraint(c.GetSemverMatch())
		if err != nil {
			return fault.Wrap(fault.Internal, "sizeimageconstraint "+size, "a stored constraint cannot be read", err)
		}
		if c.GetImage() == os && (v == nil || !match.Check(v)) {
			return invalid("given size:%s with image:%s does violate image constraint:%s %s", size, i.GetId(), os, match)
		}
	}
	return nil
}
